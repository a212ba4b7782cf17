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

TEST(ConfigPage, SaysWhereAValueComesFrom) {
  const ConfigPage page = config_page({"HORA_LANES=3", "HOROVOD_FUSION_THRESHOLD=1048576"});
  ASSERT_TRUE(page.ok);
  EXPECT_NE(page.text.find("HORA_LANES             3            environment\n"), std::string::npos);
  EXPECT_NE(page.text.find("1 MiB        HOROVOD_FUSION_THRESHOLD\n"), std::string::npos);
  EXPECT_NE(page.text.find("HORA_SEED              0            default\n"), std::string::npos);
  EXPECT_FALSE(config_page({"HORA_LANES=x"}).ok);
}

}  // namespace
}  // namespace hora
