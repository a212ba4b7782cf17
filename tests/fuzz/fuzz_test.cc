// Goal: no bytes from outside crash a reader, or make it say what its writer would not. Method:
// every target is given its corpus, then seeded mutations of it; FUZZ_RUNS says how many. The
// input at work lies in fuzz-<target>.bin until the test has passed, so a crash leaves it there:
// FUZZ_INPUT=fuzz-wire.bin fuzz_test --gtest_filter='*wire' runs it alone.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/descriptor.h"

#define X(name) extern "C" int fuzz_##name(const uint8_t* data, size_t bytes);
#include "tests/fuzz/targets.inc"
#undef X

namespace hora {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  int (*run)(const uint8_t* data, size_t bytes);
};

constexpr Target kTargets[] = {
#define X(name) {#name, fuzz_##name},
#include "tests/fuzz/targets.inc"
#undef X
};

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> corpus_of(const char* target) {
  std::vector<std::pair<fs::path, std::string>> files;
  for (const auto& entry : fs::directory_iterator(fs::path(HORA_CORPUS) / target))
    files.emplace_back(entry.path(), read(entry.path()));
  std::ranges::sort(files);  // so that a seed means the same everywhere
  std::vector<std::string> corpus;
  for (auto& [path, bytes] : files) corpus.push_back(std::move(bytes));
  return corpus;
}

// A few changes of the kinds that parsers stumble over: other bytes, limits of integers, pieces
// that are missing, repeated, moved, or of another input.
class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  std::string next() {
    std::string bytes = corpus_[below(corpus_.size())];
    for (size_t changes = 1 + below(6); changes > 0; --changes) change(bytes);
    if (bytes.size() > kMost) bytes.resize(kMost);
    return bytes;
  }

 private:
  static constexpr size_t kMost = 16'384;

  size_t below(size_t most) { return most ? rng_() % most : 0; }

  void change(std::string& bytes) {
    static constexpr std::array kInteresting{0x00, 0x01, 0x7f, 0x80, 0xff, 0x20, 0x22, 0x2d, 0x0a};
    const size_t at = below(bytes.size());
    const size_t length = std::min(bytes.size() - at, 1 + below(below(8) ? 8 : 200));
    switch (below(9)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        return;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(rng_());
        return;
      case 2:
        if (!bytes.empty()) bytes[at] = static_cast<char>(kInteresting[below(kInteresting.size())]);
        return;
      case 3:
        bytes.insert(at, 1 + below(4), static_cast<char>(rng_()));
        return;
      case 4:
        bytes.erase(at, length);
        return;
      case 5:
        bytes.insert(below(bytes.size()), bytes.substr(at, length));
        return;
      case 6: {
        const std::string& other = corpus_[below(corpus_.size())];
        bytes.insert(at, other.substr(below(other.size()), 1 + below(64)));
        return;
      }
      case 7:
        bytes.resize(at);
        return;
      default: {  // a huge number, as LEB128 or as text
        static constexpr std::array kHuge{"\xff\xff\xff\xff\x0f",
                                          "\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
                                          "18446744073709551615", "-9223372036854775808", "1e999"};
        bytes.replace(at, std::min(length, size_t{2}), kHuge[below(kHuge.size())]);
        return;
      }
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 rng_{1};
};

class Fuzz : public testing::TestWithParam<Target> {};

TEST_P(Fuzz, TakesItsCorpusAndWhatBecomesOfIt) {
  const auto& [name, run] = GetParam();
  const auto give = [&](const std::string& bytes) {
    run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  };
  if (const char* input = std::getenv("FUZZ_INPUT")) return give(read(input));
  const fs::path at_work = std::string("fuzz-") + name + ".bin";
  // One file all the time: to truncate and close one for each input would wait for the disk.
  const Descriptor file(::open(at_work.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.valid()) << at_work;
  const auto try_it = [&](const std::string& bytes) {
    ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes.size())), 0);
    give(bytes);
  };
  const auto corpus = corpus_of(name);
  ASSERT_FALSE(corpus.empty());
  try_it({});
  for (const std::string& bytes : corpus) try_it(bytes);
  const char* text = std::getenv("FUZZ_RUNS");
  uint64_t runs = text ? std::strtoull(text, nullptr, 10) : HORA_FUZZ_RUNS;
  for (Mutator mutator(corpus); runs > 0; --runs) try_it(mutator.next());
  fs::remove(at_work);
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(kTargets),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace hora
