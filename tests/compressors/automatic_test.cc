// Goal: the bound on the error that `auto` takes is about what chains really do.
// Method: one exchange of normal numbers.

#include "compressors/automatic.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

double relative_error(const char* chain) {
  constexpr size_t kCount = 1 << 16;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0, 1e-3f);
  std::vector<float> values(kCount);
  for (float& value : values) value = normal(engine);
  Trial trial(chain, kCount);
  const std::vector<float> said = trial.decode(trial.encode(values));
  double wrong = 0, all = 0;
  for (size_t i = 0; i < kCount; ++i) {
    wrong += std::pow(double{values[i]} - double{said[i]}, 2);
    all += std::pow(double{values[i]}, 2);
  }
  return std::sqrt(wrong / all);
}

TEST(Automatic, ErrorsAreAsDeclared) {
  for (const AutomaticChain& one : automatic_chains().subspan(1)) {
    const double error = relative_error(one.chain);
    EXPECT_LE(error, one.error) << one.name;
    EXPECT_GE(error, 0.5 * one.error) << one.name;
  }
}

TEST(Automatic, TheMoreExactComeFirst) {
  double before = 0;
  for (const AutomaticChain& one : automatic_chains()) {
    EXPECT_GE(one.error, before) << one.name;
    before = one.error;
  }
  EXPECT_TRUE(ChainConfig::parse(automatic_chains()[0].chain).value().none());
}

}  // namespace
}  // namespace hora
