#include "benchmarks/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

#include <sys/utsname.h>

#include "benchmarks/job.h"

namespace hora::benchmarks {

double quantile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  const auto at = static_cast<size_t>(share * static_cast<double>(samples.size() - 1) + 0.5);
  std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(at), samples.end());
  return samples[at];
}

nlohmann::json describe_machine() {
  std::string processor = "unknown", line;
  for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line);)
    if (line.starts_with("model name")) {
      processor = line.substr(line.find(':') + 2);
      break;
    }
  utsname system{};
  ::uname(&system);
  double load[1] = {};
  ::getloadavg(load, 1);
  return {{"processor", processor},
          {"cores", std::thread::hardware_concurrency()},
          {"kernel", system.release},
          {"load", load[0]}};
}

void write_json(const std::string& path, const nlohmann::json& report) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  if (!file) std::fprintf(stderr, "cannot write %s\n", path.c_str());
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file, nullptr, false);
}

double copy_bandwidth() {
  constexpr size_t kBytes = size_t{64} << 20;
  const auto from = std::make_unique<char[]>(kBytes), to = std::make_unique<char[]>(kBytes);
  std::memset(from.get(), 1, kBytes);
  std::memset(to.get(), 2, kBytes);
  std::vector<double> rates;
  for (const double until = seconds_now() + 0.1; rates.size() < 3 || seconds_now() < until;) {
    const double begin = seconds_now();
    std::memcpy(to.get(), from.get(), kBytes);
    rates.push_back(static_cast<double>(kBytes) / 1e9 / (seconds_now() - begin));
    from[rates.size()] = to[kBytes / 2];  // so that no copy is superfluous
  }
  return quantile(rates, 0.5);
}

size_t parse_bytes(const std::string& text) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(text.c_str(), &end, 10);
  switch (*end) {
    case 'k':
    case 'K':
      return number << 10;
    case 'm':
    case 'M':
      return number << 20;
    case 'g':
    case 'G':
      return number << 30;
    case '\0':
      return number;
    default:
      return 0;
  }
}

}  // namespace hora::benchmarks
