#include "launcher/hosts.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "runtime/quantity.h"

namespace hora {
namespace {

using Json = nlohmann::json;

constexpr int kMostSlots = 65536;
constexpr size_t kLargestFile = size_t{16} << 20;

Status wrong(std::string text) {
  return Status(Code::kInvalidArgument, std::move(text));
}

/// ssh would take a name that begins with "-" for an option.
bool is_host_name(std::string_view name) {
  const auto is_fine = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("-._@:%", c) != nullptr;
  };
  return !name.empty() && name[0] != '-' && std::all_of(name.begin(), name.end(), is_fine);
}

std::optional<int> slots_in(std::string_view text, uint64_t least = 1) {
  const auto slots = parse_integer(text);
  if (!slots || *slots < least || *slots > kMostSlots) return {};
  return static_cast<int>(*slots);
}

/// "a", which has `standard` slots, "a:4", "[fd77::1]:4".
Result<Host> parse_host(std::string_view text, int standard = 1, uint64_t least = 1) {
  Host host;
  host.slots = standard;
  std::string_view slots;
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == text.npos) return wrong(fmt::format("`{}`: a bracket is not closed", text));
    host.name = text.substr(1, end - 1);
    slots = text.substr(end + 1);
  } else {
    const size_t colon = text.find(':');
    if (colon != text.npos && text.find(':', colon + 1) != text.npos)
      return wrong(fmt::format(
          "`{}`: write HOST:SLOTS, and an IPv6 address in brackets, such as [fd77::1]:4", text));
    host.name = text.substr(0, colon);
    slots = colon == text.npos ? std::string_view() : text.substr(colon);
  }
  if (!is_host_name(host.name))
    return wrong(
        fmt::format("`{}` is not the name of a host; expected HOST:SLOTS, such as node1:4", text));
  if (slots.empty()) return host;
  const auto number = slots[0] == ':' ? slots_in(slots.substr(1), least) : std::nullopt;
  if (!number)
    return wrong(fmt::format("`{}`: expected HOST:SLOTS with {} to {} slots, such as {}:4", text,
                             least, kMostSlots, host.name));
  host.slots = *number;
  return host;
}

void add(std::vector<Host>& hosts, Host host) {
  const auto same = [&](const Host& other) { return other.name == host.name; };
  const auto found = std::find_if(hosts.begin(), hosts.end(), same);
  if (found == hosts.end())
    hosts.push_back(std::move(host));
  else
    found->slots = std::min(found->slots + host.slots, kMostSlots);
}

/// "slots=4" or "max_slots=8" behind a host's name.
Status parse_option(std::string_view word, Host& host, std::optional<int>& most) {
  const size_t equals = word.find('=');
  std::string key(word.substr(0, equals));
  std::replace(key.begin(), key.end(), '-', '_');
  constexpr std::string_view kKeys[] = {"slots", "max_slots"};
  if (equals == word.npos || (key != "slots" && key != "max_slots")) {
    const std::string_view meant = nearest(key, kKeys);
    return wrong(fmt::format("`{}`: {}", word,
                             meant.empty() ? "expected slots=N or max_slots=N"
                                           : fmt::format("did you mean `{}=N`?", meant)));
  }
  const auto number = slots_in(word.substr(equals + 1));
  if (!number) return wrong(fmt::format("`{}`: expected a number from 1 to {}", word, kMostSlots));
  if (key == "slots")
    host.slots = *number;
  else
    most = *number;
  return {};
}

Status parse_line(const std::string& line, std::vector<Host>& hosts) {
  std::istringstream words(line.substr(0, line.find('#')));
  std::string name;
  if (!(words >> name)) return {};
  Result<Host> host = parse_host(name);
  HORA_TRY(host.status());
  std::optional<int> most;
  for (std::string word; words >> word;) HORA_TRY(parse_option(word, host.value(), most));
  if (most && host.value().slots > *most)
    return wrong(fmt::format("slots={} is more than max_slots={}", host.value().slots, *most));
  add(hosts, std::move(host).value());
  return {};
}

/// Where a text stops to be JSON; the library's own parser would throw.
class JsonMistake : public nlohmann::json_sax<Json> {
 public:
  size_t position = 0;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t at, const std::string&, const Json::exception&) override {
    position = at;
    return false;
  }
};

Result<Host> host_in(const Json& entry, size_t number) {
  const auto ssh = entry.is_object() ? entry.find("ssh") : entry.end();
  if (!entry.is_object() || ssh == entry.end() || !ssh->is_string())
    return wrong(fmt::format("host {}: expected an object such as {{\"ssh\": \"node1\"}}", number));
  Host host;
  host.name = ssh->get_ref<const std::string&>();
  if (!is_host_name(host.name))
    return wrong(fmt::format("host {}: `{}` is not the name of a host", number, host.name));
  const auto addresses = entry.find("ips");
  if (addresses == entry.end()) return host;
  if (!addresses->is_array())
    return wrong(fmt::format("host {}: \"ips\" is not a list of addresses", number));
  for (const Json& address : *addresses) {
    if (!address.is_string() || !is_host_name(address.get_ref<const std::string&>()))
      return wrong(
          fmt::format("host {}: \"ips\" holds what is not an address: {}", number, address.dump()));
    host.addresses += (host.addresses.empty() ? "" : ",") + address.get_ref<const std::string&>();
  }
  return host;
}

/// An IPv6 address begins with a bracket, too.
bool is_json(std::string_view text) {
  constexpr const char* kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return false;
  const size_t next = text.find_first_not_of(kSpace, begin + 1);
  return text[begin] == '{' ||
         (text[begin] == '[' && next != text.npos && (text[next] == '{' || text[next] == ']'));
}

Result<std::vector<Host>> parse_json(const std::string& path, std::string_view text) {
  JsonMistake mistake;
  if (!Json::sax_parse(text, &mistake)) {
    const std::string_view before = text.substr(0, mistake.position);
    return wrong(fmt::format("{}:{}: not JSON from here on", path,
                             1 + std::count(before.begin(), before.end(), '\n')));
  }
  const Json file = Json::parse(text, nullptr, false);
  const auto found = file.is_object() ? file.find("hosts") : file.end();
  const Json& list = found == file.end() ? file : *found;
  if (!list.is_array()) return wrong(path + ": expected a list of hosts, [{\"ssh\": \"node1\"}]");
  std::vector<Host> hosts;
  for (size_t i = 0; i < list.size(); ++i) {
    Result<Host> host = host_in(list[i], i + 1);
    if (!host.ok()) return wrong(fmt::format("{}: {}", path, host.status().message()));
    add(hosts, std::move(host).value());
  }
  return hosts;
}

}  // namespace

Result<std::vector<Host>> parse_hosts(std::string_view text) {
  std::vector<Host> hosts;
  while (true) {
    const size_t comma = text.find(',');
    Result<Host> host = parse_host(text.substr(0, comma));
    HORA_TRY(host.status());
    add(hosts, std::move(host).value());
    if (comma == text.npos) return hosts;
    text.remove_prefix(comma + 1);
  }
}

Result<std::vector<Host>> parse_hostfile(const std::string& path, std::string_view text) {
  std::vector<Host> hosts;
  if (is_json(text)) {
    Result<std::vector<Host>> found = parse_json(path, text);
    HORA_TRY(found.status());
    hosts = std::move(found).value();
  } else {
    std::istringstream lines{std::string(text)};
    int number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      if (const Status status = parse_line(line, hosts); !status.ok())
        return wrong(fmt::format("{}:{}: {}", path, number, status.message()));
    }
  }
  if (hosts.empty())
    return wrong(path + ": no hosts in it; expected lines such as `node1 slots=4`");
  return hosts;
}

Result<std::vector<Host>> read_hostfile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return Status(Code::kUnavailable,
                  fmt::format("--hostfile {}: {}", path, ::strerrordesc_np(errno)));
  std::string text;
  for (char c = 0; text.size() <= kLargestFile && file.get(c);) text.push_back(c);
  if (text.size() > kLargestFile) return wrong(fmt::format("--hostfile {}: too large", path));
  return parse_hostfile(path, text);
}

Result<std::vector<Host>> parse_discovered(std::string_view text, int slots_per_host) {
  std::vector<Host> hosts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, more;
    if (!(words >> name)) continue;
    if (words >> more) return wrong(fmt::format("`{:.100}`: expected one HOST:SLOTS", line));
    Result<Host> host = parse_host(name, slots_per_host, 0);
    HORA_TRY(host.status());
    if (host.value().slots > 0) add(hosts, std::move(host).value());
  }
  return hosts;
}

std::string to_text(std::span<const Host> hosts) {
  std::string text;
  for (const Host& host : hosts) {
    const bool bracketed = host.name.find(':') != host.name.npos;
    text += fmt::format("{}{}{}{}:{}", text.empty() ? "" : ",", bracketed ? "[" : "", host.name,
                        bracketed ? "]" : "", host.slots);
  }
  return text;
}

Result<std::vector<RankPlace>> place_ranks(std::span<const Host> hosts, int ranks) {
  std::vector<RankPlace> places;
  std::vector<int> taken(hosts.size());
  for (size_t i = 0; i < hosts.size(); ++i) {
    const int left = ranks - static_cast<int>(places.size());
    taken[i] = std::min(hosts[i].slots, left);
    for (int local = 0; local < taken[i]; ++local)
      places.push_back({static_cast<int>(i), local, taken[i], 0, 0});
  }
  if (static_cast<int>(places.size()) < ranks)
    return wrong(fmt::format("-np {}: {} {} {} slot{}; give the hosts more, or fewer ranks", ranks,
                             to_text(hosts), hosts.size() == 1 ? "has" : "have", places.size(),
                             places.size() == 1 ? "" : "s"));
  for (RankPlace& place : places) {
    for (size_t i = 0; i < hosts.size(); ++i) {
      if (taken[i] <= place.local_rank) continue;
      ++place.cross_size;
      if (static_cast<int>(i) < place.host) ++place.cross_rank;
    }
  }
  return places;
}

bool is_this_machine(const std::string& name) {
  if (name == "localhost" || name == "127.0.0.1" || name == "::1") return true;
  char own[HOST_NAME_MAX + 1] = {};
  ::gethostname(own, sizeof(own) - 1);
  if (name == own) return true;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return false;
  bool found = false;
  for (const ifaddrs* each = all; each && !found; each = each->ifa_next) {
    if (!each->ifa_addr) continue;
    const int family = each->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t bytes = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    char address[NI_MAXHOST];
    found = ::getnameinfo(each->ifa_addr, bytes, address, sizeof(address), nullptr, 0,
                          NI_NUMERICHOST) == 0 &&
            name == address;
  }
  ::freeifaddrs(all);
  return found;
}

}  // namespace hora
