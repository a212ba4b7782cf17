// Goal: the page about settings says what the program does.
// Method: the committed page is what the table makes now.
#include "launcher/settings_page.h"

#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "hora/config.h"

namespace hora {
namespace {

TEST(SettingsPage, DocsEnvironmentIsWhatTheTableMakes) {
  std::ifstream file(HORA_SOURCE_FOLDER "/docs/environment.md");
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_EQ(page.str(), settings_markdown())
      << "run: hora settings --markdown > docs/environment.md";
}

TEST(SettingsPage, NamesEverySettingAndAlias) {
  for (const Setting& setting : settings()) {
    for (const std::string& page : {settings_markdown(), settings_text()})
      EXPECT_NE(page.find(setting.name), page.npos) << setting.name;
    EXPECT_NE(settings_markdown().find(setting.alias), std::string::npos) << setting.alias;
  }
}

bool has_line(const ConfigPage& page, const std::string& line) {
  return page.text.find(line + "\n") != page.text.npos;
}

TEST(ConfigPage, SaysWhereAValueComesFrom) {
  const ConfigPage page =
      config_page({{}, {"HORA_LANES=3", "HOROVOD_FUSION_THRESHOLD=1048576"}, {}}, false);
  ASSERT_TRUE(page.ok);
  EXPECT_TRUE(has_line(page, "HORA_LANES             3            environment"));
  EXPECT_TRUE(has_line(page, "HORA_BUCKET_BYTES      1 MiB        HOROVOD_FUSION_THRESHOLD"));
  EXPECT_TRUE(has_line(page, "HORA_SEED              0            default"));
  EXPECT_FALSE(config_page({{}, {"HORA_LANES=x"}, {}}, false).ok);
}

TEST(ConfigPage, AFlagWinsOverTheEnvironmentOverTheFile) {
  const ConfigSources all{{"HORA_LANES=5"}, {"HORA_LANES=4"}, {{"HORA_LANES", "3", "run.toml:1"}}};
  EXPECT_TRUE(has_line(config_page(all, true),
                       "HORA_LANES             5            flag --lanes, over environment 4, over "
                       "file run.toml:1 3, over default 3"));
  EXPECT_TRUE(has_line(config_page({{}, all.environment, all.file}, false),
                       "HORA_LANES             4            environment"));
  EXPECT_TRUE(has_line(config_page({{}, {}, all.file}, false),
                       "HORA_LANES             3            file run.toml:1"));
}

TEST(ConfigPage, HorovodsVariableWinsOverTheFile) {
  const ConfigSources both{
      {}, {"HOROVOD_FUSION_THRESHOLD=1048576"}, {{"HORA_BUCKET_BYTES", "2 MiB", "run.toml:1"}}};
  EXPECT_TRUE(has_line(config_page(both, false),
                       "HORA_BUCKET_BYTES      1 MiB        HOROVOD_FUSION_THRESHOLD"));
}

}  // namespace
}  // namespace hora
