#include "launcher/settings_file.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

constexpr std::string_view kPrefix = "HORA_";
constexpr std::string_view kLaunchers[] = {
    "HORA_RANK",       "HORA_SIZE",  "HORA_LOCAL_RANK", "HORA_LOCAL_SIZE", "HORA_CROSS_RANK",
    "HORA_CROSS_SIZE", "HORA_STORE", "HORA_JOB",        "HORA_WORKER",     "HORA_SECRET"};

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

std::string upper(std::string_view key) {
  std::string result;
  for (const char c : key)
    result += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

std::string key_of(std::string_view variable) {
  std::string key;
  for (const char c : variable.substr(kPrefix.size()))
    key += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return key;
}

class Parser {
 public:
  explicit Parser(std::string file) : file_(std::move(file)) {
    toml_ = file_.ends_with(".toml");
    known_ = toml_ || file_.ends_with(".yaml") || file_.ends_with(".yml");
  }

  Result<std::vector<FileSetting>> parse(std::string_view text) {
    if (!known_)
      return Status(Code::kInvalidArgument,
                    fmt::format("{}: expected a name that ends in .toml, .yaml or .yml", file_));
    for (line_ = 1; !text.empty(); ++line_) {
      const size_t end = std::min(text.find('\n'), text.size());
      toml_ ? toml(text.substr(0, end)) : yaml(text.substr(0, end));
      text.remove_prefix(std::min(text.size(), end + 1));
    }
    if (!mistakes_.empty())
      return Status(Code::kInvalidArgument, fmt::format("{}", fmt::join(mistakes_, "\n")));
    return std::move(settings_);
  }

 private:
  std::string place() const { return fmt::format("{}:{}", file_, line_); }

  template <class... Args>
  void wrong(fmt::format_string<Args...> format, Args&&... args) {
    mistakes_.push_back(
        fmt::format("{}: {}", place(), fmt::format(format, std::forward<Args>(args)...)));
  }

  void toml(std::string_view line) {
    line = trimmed(line);
    if (line.empty() || line[0] == '#') return;
    if (line[0] == '[') {
      const std::string_view inside = trimmed(line.substr(0, line.find('#')));
      if (inside.size() < 3 || inside.back() != ']' || inside[1] == '[')
        return wrong("expected [section]");
      section_ = trimmed(inside.substr(1, inside.size() - 2));
      return;
    }
    const size_t equals = line.find('=');
    if (equals == line.npos) return wrong("expected key = value, such as lanes = 3");
    const std::string_view rest = trimmed(line.substr(equals + 1));
    const bool quoted = !rest.empty() && (rest[0] == '"' || rest[0] == '\'');
    const auto value = value_of(rest);
    if (!value) return;
    const bool number = value->find_first_not_of("0123456789+-._eE") == value->npos;
    if (!quoted && !number)
      return wrong("text needs quotes: {} = \"{}\"", trimmed(line.substr(0, equals)), *value);
    add(trimmed(line.substr(0, equals)), *value);
  }

  void yaml(std::string_view line) {
    const std::string_view content = trimmed(line);
    if (content.empty() || content[0] == '#' || content == "---") return;
    const bool indented = line[0] == ' ' || line[0] == '\t';
    if (content[0] == '-') return wrong("lists are not understood; expected key: value");
    // A colon that is part of a value has no space behind it (topk:0.01).
    size_t colon = content.find(": ");
    if (colon == content.npos && content.back() == ':') colon = content.size() - 1;
    if (colon == content.npos) return wrong("expected key: value, such as lanes: 3");
    const std::string_view key = trimmed(content.substr(0, colon));
    const std::string_view rest = trimmed(content.substr(colon + 1));
    if (!indented) section_.clear();
    if (rest.empty() || rest[0] == '#') {
      if (indented) return wrong("'{}': sections in sections are not understood", key);
      section_ = key;
      return;
    }
    if (indented && section_.empty()) return wrong("'{}' is indented, but in no section", key);
    if (const auto value = value_of(rest)) add(key, *value);
  }

  /// Without quotes and comment.
  std::optional<std::string> value_of(std::string_view text) {
    if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
      const size_t end = text.find(text[0], 1);
      const std::string_view after = end == text.npos ? "x" : trimmed(text.substr(end + 1));
      if (end == text.npos || (!after.empty() && after[0] != '#')) {
        wrong("expected one text in quotes");
        return {};
      }
      return std::string(text.substr(1, end - 1));
    }
    if (const size_t comment = text.find(" #"); comment != text.npos)
      text = trimmed(text.substr(0, comment));
    if (text.empty() || text[0] == '#') {
      wrong("there is no value");
      return {};
    }
    if (text[0] == '[' || text[0] == '{') {
      wrong("lists and tables are not understood; expected one value");
      return {};
    }
    return std::string(text);
  }

  void add(std::string_view key, std::string value) {
    std::string name = upper(key);
    if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
    const std::string section = upper(section_);
    if (!section.empty() && section != "HORA") name = section + "_" + name;
    const std::string variable = std::string(kPrefix) + name;
    std::vector<std::string_view> names;
    for (const Setting& setting : settings())
      if (!flag_of(setting).empty()) names.push_back(setting.name);
    if (std::find(names.begin(), names.end(), variable) == names.end()) {
      const std::string_view meant = nearest(variable, names);
      return wrong("'{}' is no setting; {}", key_of(variable),
                   meant.empty() ? "`hora settings` lists them all"
                                 : fmt::format("did you mean {}?", key_of(meant)));
    }
    const auto same = [&](const FileSetting& each) { return each.variable == variable; };
    const auto before = std::find_if(settings_.begin(), settings_.end(), same);
    if (before != settings_.end())
      return wrong("'{}' was set before, at {}", key_of(variable), before->place);
    settings_.push_back({variable, std::move(value), place()});
  }

  const std::string file_;
  bool toml_ = false, known_ = false;
  int line_ = 0;
  std::string section_;
  std::vector<FileSetting> settings_;
  std::vector<std::string> mistakes_;
};

}  // namespace

std::string flag_of(const Setting& setting) {
  const std::string_view name = setting.name;
  if (std::find(std::begin(kLaunchers), std::end(kLaunchers), name) != std::end(kLaunchers))
    return {};
  std::string flag = "--" + key_of(name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

Result<std::vector<FileSetting>> parse_settings(std::string_view text, const std::string& file) {
  return Parser(file).parse(text);
}

Result<std::vector<FileSetting>> read_settings_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file.good())
    return Status(Code::kInvalidArgument, fmt::format("--config-file {}: cannot read it", path));
  return parse_settings(text.str(), path);
}

std::vector<std::string> with_defaults(std::vector<std::string> environment,
                                       const std::vector<FileSetting>& file) {
  std::set<std::string, std::less<>> given;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (equals != entry.npos && equals + 1 < entry.size()) given.insert(entry.substr(0, equals));
  }
  for (const FileSetting& each : file) {
    const auto is_it = [&](const Setting& setting) { return setting.name == each.variable; };
    const auto setting = std::find_if(settings().begin(), settings().end(), is_it);
    if (given.contains(each.variable) || given.contains(setting->alias)) continue;
    // An empty variable may be there, and the first of two is the one that counts.
    std::erase(environment, each.variable + "=");
    environment.push_back(each.variable + "=" + each.value);
  }
  return environment;
}

}  // namespace hora
