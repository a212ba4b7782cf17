// Goal: loading a backend says what it looked for and where, and refuses names that are none.
// Method: names that no plug-in has.
#include "ops/plugin.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

TEST(Plugin, SaysWhereItLookedForABackendThatDoesNotExist) {
  const auto backend = load_backend("nonesuch", PluginContext());
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.status().code(), Code::kUnavailable);
  const std::string& message = backend.status().message();
  EXPECT_NE(message.find("backend nonesuch"), std::string::npos) << message;
  for (const char* place : {"/libhora_nonesuch.so: no such file", "/../lib/libhora_nonesuch.so"})
    EXPECT_NE(message.find(place), std::string::npos) << message;
}

TEST(Plugin, TakesNoPathForAName) {
  for (const char* name : {"", "../gloo", "/tmp/x", "Gloo", "gloo.so"}) {
    const auto backend = load_backend(name, PluginContext());
    ASSERT_FALSE(backend.ok()) << name;
    EXPECT_EQ(backend.status().code(), Code::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace hora
