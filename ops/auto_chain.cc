#include "ops/auto_chain.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "compressors/text.h"

namespace hora {
namespace {

constexpr Extent kTrial{.id = 0, .rows = 1, .columns = 1 << 17};  // 512 KiB
constexpr std::string_view kNeverSlowerThan = "bf16";

/// The three numbers of "name=1/2/3", in seconds; nothing if there are others.
std::optional<CodecSpeed> numbers_in(std::string_view text) {
  CodecSpeed speed;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (double* const part : {&speed.encode, &speed.decode, &speed.settle}) {
    if (part != &speed.encode && (at == end || *at++ != '/')) return {};
    const auto [rest, error] = std::from_chars(at, end, *part);
    if (error != std::errc() || !std::isfinite(*part) || *part < 0) return {};
    *part *= 1e-9;
    at = rest;
  }
  if (at != end) return {};
  return speed;
}

/// The choice among chains of which the more exact come first. `held`: what a tensor of half the
/// size has.
size_t choose_among(const std::vector<double>& times, double error, size_t held) {
  const auto chains = automatic_chains();
  double limit = INFINITY;
  for (size_t i = 0; i < times.size(); ++i)
    if (chains[i].error <= error) limit = std::min(limit, AutoChain::kSwitch * times[i]);
  for (size_t i = 0; i < times.size(); ++i)
    if (chains[i].error <= error && chains[i].name == kNeverSlowerThan)
      limit = std::min(limit, times[i]);
  const auto will_do = [&](size_t i) { return chains[i].error <= error && times[i] <= limit; };
  if (will_do(held)) return held;
  size_t i = 0;
  while (!will_do(i)) ++i;
  return i;
}

std::string count_text(size_t count) {
  if (count >= 1 << 20) return fmt::format("{}M", count >> 20);
  return count >= 1 << 10 ? fmt::format("{}k", count >> 10) : fmt::format("{}", count);
}

}  // namespace

CodecSpeeds usual_speeds() {
  // Nanoseconds, on one core of a server of 2023 with AVX-512, the caches warm.
  constexpr CodecSpeed kUsual[] = {{0, 0, 0},        {26, 8.5, 0.2},   {0.2, 0.1, 0.2},
                                   {0.25, 0.1, 0.2}, {0.6, 0.25, 0.2}, {0.25, 0.1, 0.2},
                                   {0.3, 0.1, 0.2},  {1.5, 0.02, 0.2}};
  CodecSpeeds speeds;
  for (const CodecSpeed& one : kUsual)
    speeds.push_back({one.encode * 1e-9, one.decode * 1e-9, one.settle * 1e-9});
  return speeds;
}

CodecSpeeds measure_speeds(const Now& now, int64_t budget) {
  const auto chains = automatic_chains();
  CodecSpeeds speeds(1);
  for (size_t i = 1; i < chains.size(); ++i) {
    const auto config = ChainConfig::parse(chains[i].chain);
    HORA_CHECK(config.ok(), config.status().message());
    const auto codec = config.value().codec(kTrial);
    HORA_CHECK(codec.ok(), codec.status().message());
    const auto speed =
        measure_speed(*codec.value(), now, budget / static_cast<int64_t>(chains.size() - 1));
    HORA_CHECK(speed.ok(), speed.status().message());
    speeds.push_back(speed.value());
  }
  return speeds;
}

CodecSpeeds slower(const CodecSpeeds& one, const CodecSpeeds& other) {
  CodecSpeeds speeds;
  for (size_t i = 0; i < one.size(); ++i)
    speeds.push_back({std::max(one[i].encode, other[i].encode),
                      std::max(one[i].decode, other[i].decode),
                      std::max(one[i].settle, other[i].settle)});
  return speeds;
}

std::string text_of(const CodecSpeeds& speeds) {
  std::string text;
  for (size_t i = 1; i < speeds.size(); ++i)
    text += fmt::format("{}{}={:.3g}/{:.3g}/{:.3g}", i == 1 ? "" : ",", automatic_chains()[i].name,
                        speeds[i].encode * 1e9, speeds[i].decode * 1e9, speeds[i].settle * 1e9);
  return text;
}

Result<CodecSpeeds> parse_speeds(std::string_view text) {
  CodecSpeeds speeds = usual_speeds();
  if (text == "usual") return speeds;
  for (const Fragment& part : split({text, 0}, ',')) {
    const size_t equals = std::min(part.text.find('='), part.text.size());
    const std::string_view name = part.text.substr(0, equals);
    const auto chain = automatic_chain_named(name);
    const auto refuse = [&](size_t at, const std::string& why) {
      return Status(Code::kInvalidArgument, fmt::format("character {}: {}", at + 1, why));
    };
    if (!chain || *chain == 0) {
      std::vector<std::string_view> known;
      for (const AutomaticChain& one : automatic_chains().subspan(1)) known.push_back(one.name);
      return refuse(part.at,
                    fmt::format("no chain of auto is '{}'{}", name, did_you_mean(name, known)));
    }
    const auto speed = numbers_in(part.text.substr(std::min(equals + 1, part.text.size())));
    if (!speed)
      return refuse(part.at + equals,
                    fmt::format("'{}' needs nanoseconds for each element to encode, to decode and "
                                "to settle, as in {}=0.3/0.1/0.2",
                                name, name));
    speeds[*chain] = *speed;
  }
  return speeds;
}

AutoChain::AutoChain(AutoJob job) : job_(std::move(job)) {
  for (const AutomaticChain& one : automatic_chains()) {
    auto config = ChainConfig::parse(one.chain);
    HORA_CHECK(config.ok(), config.status().message());
    chains_.push_back(std::move(config).value());
  }
  HORA_CHECK(job_.speeds.size() == chains_.size(), "a speed for each chain");
  for (size_t k = 0; k < kClasses; ++k) {
    wide_[k] = times(size_t{1} << k, DType::kFloat32);
    narrow_[k] = times(size_t{1} << k, DType::kBFloat16);
  }
}

double AutoChain::seconds(size_t chain, size_t count, DType dtype) const {
  const ChainConfig& config = chains_[chain];
  const int ranks = static_cast<int>(job_.topology.ranks());
  const auto of_piece = [&](size_t elements) {
    if (config.none())
      return exchange_cost(job_.topology, Aggregation::kDense, nullptr, {}, elements, dtype)
          .seconds();
    const auto codec = config.codec({.id = 0, .rows = 1, .columns = elements}, ~uint64_t{0});
    HORA_CHECK(codec.ok(), codec.status().message());
    return exchange_cost(job_.topology, config.aggregation(*codec.value(), ranks),
                         codec.value().get(), job_.speeds[chain], elements, dtype)
        .seconds();
  };
  const size_t most = std::max<size_t>(job_.bucket_bytes / bytes_of(dtype), 1);
  const double whole =
      count < most ? 0 : static_cast<double>(count / most) * of_piece(most);  // one after the other
  return count % most == 0 ? whole : whole + of_piece(count % most);
}

AutoChain::Times AutoChain::times(size_t count, DType dtype) const {
  Times list;
  for (size_t i = 0; i < chains_.size(); ++i) list.push_back(seconds(i, count, dtype));
  return list;
}

const std::array<AutoChain::Times, AutoChain::kClasses>& AutoChain::ladder(DType dtype) const {
  return bytes_of(dtype) == 4 ? wide_ : narrow_;
}

bool AutoChain::is_carried(size_t count, DType dtype) const {
  const uint64_t carried = job_.carry_bytes / std::max<size_t>(job_.topology.ranks(), 1);
  return count * bytes_of(dtype) <= carried;
}

size_t AutoChain::chosen(size_t count, DType dtype, double error, const Times& times) const {
  if (is_carried(count, dtype)) return 0;
  size_t held = 0;
  for (size_t k = 0; k < kClasses && size_t{1} << k < count; ++k)
    held = choose_among(ladder(dtype)[k], error, held);
  return choose_among(times, error, held);
}

size_t AutoChain::choose(size_t count, DType dtype, double error,
                         std::optional<size_t> earlier) const {
  const Times list = times(count, dtype);
  const size_t best = chosen(count, dtype, error, list);
  if (!earlier || is_carried(count, dtype)) return best;
  const bool keeps =
      automatic_chains()[*earlier].error <= error && list[*earlier] <= kKeep * list[best];
  return keeps ? *earlier : best;
}

std::string AutoChain::table(double error) const {
  const Topology& at = job_.topology;
  std::string text = fmt::format("auto:error={:g}, float32 over {} ranks, {} on each of {} hosts",
                                 error, at.ranks(), at.ranks_per_host, at.hosts);
  if (at.hosts > 1)
    text += fmt::format(", {}, {} one way", rate_text(at.across.bandwidth),
                        time_text(at.across.latency));
  text += fmt::format("\n{:>10}", "elements");
  for (const AutomaticChain& one : automatic_chains())
    if (one.error <= error) text += fmt::format(" {:>9}", one.name);
  text += "  choice\n";
  for (size_t count = 1 << 10; count <= size_t{1} << 26; count *= 4) {
    text += fmt::format("{:>10}", count_text(count));
    const Times list = times(count, DType::kFloat32);
    for (size_t i = 0; i < chains_.size(); ++i)
      if (automatic_chains()[i].error <= error) text += fmt::format(" {:>9}", time_text(list[i]));
    const size_t choice = chosen(count, DType::kFloat32, error, list);
    text += fmt::format("  {}\n", automatic_chains()[choice].name);
  }
  return text;
}

}  // namespace hora
