// Goal: a name from a paper is exactly the chain that paper describes, and the page that lists all
// of them is up to date.
// Method: identities between chains, payload by payload.

#include <fstream>
#include <iterator>

#include "compressors/reference.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

void expect_same(const std::string& one, const std::string& other) {
  Trial a(one, 3001), b(other, 3001);
  for (uint32_t step = 0; step < 3; ++step) {
    const auto g = gradient(3001, step);
    const auto x = a.encode(g, step), y = b.encode(g, step);
    ASSERT_EQ(x, y) << one << " and " << other;
    ASSERT_EQ(a.decode(x), b.decode(y));
  }
  EXPECT_EQ(a.residual(), b.residual());
}

TEST(Presets, AreTheChainsOfTheirPapers) {
  expect_same("onebit", "ef+quant:bits=1,recon=twomean,bucket=512");
  expect_same("efsign", "ef:units=update+quant:bits=1,recon=l1mean,bucket=tensor");
  // Dropping without a limit: TernGrad is QSGD with one level a side.
  expect_same("terngrad:clip=1000000,scale=1", "qsgd:bits=2,bucket=tensor");
  // Without momentum deep gradient compression is gradient dropping.
  expect_same("dgc:m=0,ratio=1%,clip=1e9", "drop:ratio=1%");
  expect_same("strom:tau=0.5,k=4",
              "threshold:tau=0.5,most=5%+quant:bits=1,recon=unit,scale=0.5+golomb:k=4");
  expect_same("dryden:pi=32", "ef+proportion:pi=32+quant:bits=1,recon=twomean");
  expect_same("fosgd:block=1k,c=2",
              "noef+hadamard:block=1k+quant:bits=1,recon=lambda,scale=2,bucket=32k");
}

TEST(Presets, EveryPresetOfThePapersIsThere) {
  for (const char* name :
       {"onebit", "qsgd", "terngrad", "signsgd", "signum", "efsign", "strom", "dryden", "drop",
        "dgc", "powersgd", "gradiveq", "fosgd", "randk", "natural", "fp8", "fp16", "bf16"}) {
    EXPECT_TRUE(ChainConfig::parse(name).ok()) << name;
  }
}

TEST(Reference, ThePageIsTheRegistry) {
  std::ifstream file(HORA_SOURCE_FOLDER "/docs/compressors.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(page, compressors_markdown())
      << "run: hora compress list --markdown > docs/compressors.md";
}

}  // namespace
}  // namespace hora
