// Goal: a file of settings means what it says, and every mistake in it is told with its line.
// Method: parse_settings() on made-up files.
#include "launcher/settings_file.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs good(const std::string& text, const std::string& file) {
  const auto settings = parse_settings(text, file);
  EXPECT_TRUE(settings.ok()) << settings.status().message();
  Pairs pairs;
  if (settings.ok())
    for (const FileSetting& each : settings.value()) pairs.emplace_back(each.variable, each.value);
  return pairs;
}

std::string mistake(const std::string& text, const std::string& file) {
  const auto settings = parse_settings(text, file);
  EXPECT_FALSE(settings.ok());
  EXPECT_EQ(settings.status().code(), Code::kInvalidArgument);
  return settings.status().message();
}

TEST(SettingsFile, ReadsToml) {
  EXPECT_EQ(good("# all\n\nlanes = 3\nbucket-bytes = \"8 MiB\"  # big\n[stall]\nwarning = '20 s'\n"
                 "[hora] # plain\nHORA_SEED=5",
                 "a.toml"),
            (Pairs{{"HORA_LANES", "3"},
                   {"HORA_BUCKET_BYTES", "8 MiB"},
                   {"HORA_STALL_WARNING", "20 s"},
                   {"HORA_SEED", "5"}}));
}

TEST(SettingsFile, ReadsYaml) {
  EXPECT_EQ(good("---\nlanes: 3\r\ncompression: topk:0.01 # a colon is no key\nstall:\n"
                 "  warning: \"20 s\"\nseed: 5\n",
                 "a.yaml"),
            (Pairs{{"HORA_LANES", "3"},
                   {"HORA_COMPRESSION", "topk:0.01"},
                   {"HORA_STALL_WARNING", "20 s"},
                   {"HORA_SEED", "5"}}));
}

TEST(SettingsFile, TellsEveryMistakeWithItsLine) {
  EXPECT_EQ(mistake("lanes = 3\nbukket_bytes = 1\nlanes = 4\nseed\nbackend = shm\nspin = \n"
                    "isa = [1]\n",
                    "a.toml"),
            "a.toml:2: 'bukket_bytes' is no setting; did you mean bucket_bytes?\n"
            "a.toml:3: 'lanes' was set before, at a.toml:1\n"
            "a.toml:4: expected key = value, such as lanes = 3\n"
            "a.toml:5: text needs quotes: backend = \"shm\"\n"
            "a.toml:6: there is no value\n"
            "a.toml:7: lists and tables are not understood; expected one value");
  EXPECT_EQ(mistake("- lanes\n  seed: 1\nstall:\n  more:\n", "a.yml"),
            "a.yml:1: lists are not understood; expected key: value\n"
            "a.yml:2: 'seed' is indented, but in no section\n"
            "a.yml:4: 'more': sections in sections are not understood");
}

TEST(SettingsFile, RefusesWhatOnlyTheLauncherKnowsAndOtherFormats) {
  EXPECT_NE(mistake("rank = 1\n", "a.toml").find("a.toml:1: 'rank' is no setting"),
            std::string::npos);
  EXPECT_EQ(mistake("", "a.json"), "a.json: expected a name that ends in .toml, .yaml or .yml");
}

TEST(SettingsFile, NamesAFileThatCannotBeRead) {
  EXPECT_EQ(read_settings_file("/no/such/file.toml").status().message(),
            "--config-file /no/such/file.toml: cannot read it");
}

}  // namespace
}  // namespace hora
