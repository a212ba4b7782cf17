// Hosts by flag and by file in each language, what is said of mistakes, and where ranks go.

#include "launcher/hosts.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

std::string message(const Result<std::vector<Host>>& result) {
  return result.status().message();
}

TEST(Hosts, HaveSlotsBehindAColon) {
  const auto hosts = parse_hosts("a:4,user@b,[fd77::1]:2");
  ASSERT_TRUE(hosts.ok()) << message(hosts);
  EXPECT_EQ(hosts.value(),
            (std::vector<Host>{{"a", 4, ""}, {"user@b", 1, ""}, {"fd77::1", 2, ""}}));
  EXPECT_EQ(to_text(hosts.value()), "a:4,user@b:1,[fd77::1]:2");
}

TEST(Hosts, OfTheSameNameAddTheirSlots) {
  EXPECT_EQ(parse_hosts("a:1,b:2,a:3").value(), (std::vector<Host>{{"a", 4, ""}, {"b", 2, ""}}));
}

TEST(Hosts, ThatAreNoneAreRefused) {
  EXPECT_EQ(message(parse_hosts("a:0")),
            "`a:0`: expected HOST:SLOTS with 1 to 65536 slots, such as a:4");
  EXPECT_EQ(message(parse_hosts("a:4,,b")),
            "`` is not the name of a host; expected HOST:SLOTS, such as node1:4");
  EXPECT_EQ(message(parse_hosts("fd77::1")),
            "`fd77::1`: write HOST:SLOTS, and an IPv6 address in brackets, such as [fd77::1]:4");
  for (const char* const text : {"-oProxyCommand=x", "a b", "a;b", "a:x", "[a", "[a]4", "", "a:"})
    EXPECT_EQ(parse_hosts(text).status().code(), Code::kInvalidArgument) << text;
}

TEST(PrintedHosts, HaveTheirSlotsOrThoseOfAHostWithoutANumber) {
  const auto hosts = parse_discovered("localhost:4\n  a:2 \r\n\nb\nc:0\n[fd77::1]\na", 3);
  ASSERT_TRUE(hosts.ok()) << message(hosts);
  EXPECT_EQ(
      hosts.value(),
      (std::vector<Host>{{"localhost", 4, ""}, {"a", 5, ""}, {"b", 3, ""}, {"fd77::1", 3, ""}}));
  EXPECT_EQ(parse_discovered("", 3).value(), std::vector<Host>{});
}

TEST(PrintedHosts, ThatAreNoneAreRefusedWithTheirLine) {
  EXPECT_EQ(message(parse_discovered("a:1\nb:x\n", 1)),
            "`b:x`: expected HOST:SLOTS with 0 to 65536 slots, such as b:4");
  EXPECT_EQ(message(parse_discovered("a 4", 1)), "`a 4`: expected one HOST:SLOTS");
  for (const char* const text : {":2", "a:99999", "-x:1", "a:-1"})
    EXPECT_EQ(parse_discovered(text, 1).status().code(), Code::kInvalidArgument) << text;
}

TEST(Hostfile, OfHorovodAndOpenMpi) {
  const auto hosts =
      parse_hostfile("f", "# ours\na slots=4\n\nb max_slots=8 slots=2  # old\r\nc\n");
  ASSERT_TRUE(hosts.ok()) << message(hosts);
  EXPECT_EQ(hosts.value(), (std::vector<Host>{{"a", 4, ""}, {"b", 2, ""}, {"c", 1, ""}}));
}

TEST(Hostfile, OfMlx) {
  const auto hosts = parse_hostfile(
      "f", R"([{"ssh": "a", "ips": ["10.0.0.1", "10.0.1.1"]}, {"ssh": "b"}, {"ssh": "b"}])");
  ASSERT_TRUE(hosts.ok()) << message(hosts);
  EXPECT_EQ(hosts.value(), (std::vector<Host>{{"a", 1, "10.0.0.1,10.0.1.1"}, {"b", 2, ""}}));
  EXPECT_EQ(parse_hostfile("f", "{\"hosts\": [{\"ssh\": \"a\"}]}").value(),
            (std::vector<Host>{{"a", 1, ""}}));
}

TEST(Hostfile, ItsMistakesNameTheLineAndSuggest) {
  EXPECT_EQ(message(parse_hostfile("f", "a slots=4\nb slot=4\n")),
            "f:2: `slot=4`: did you mean `slots=N`?");
  EXPECT_EQ(message(parse_hostfile("f", "a cpus=4")),
            "f:1: `cpus=4`: expected slots=N or max_slots=N");
  EXPECT_EQ(message(parse_hostfile("f", "a slots=many")),
            "f:1: `slots=many`: expected a number from 1 to 65536");
  EXPECT_EQ(message(parse_hostfile("f", "a slots=4 max_slots=2")),
            "f:1: slots=4 is more than max_slots=2");
  EXPECT_EQ(message(parse_hostfile("f", "[\n{\"ssh\": \"a\"},\n{\"ssh\" \"b\"}]")),
            "f:3: not JSON from here on");
  EXPECT_EQ(message(parse_hostfile("f", "[{\"host\": \"a\"}]")),
            "f: host 1: expected an object such as {\"ssh\": \"node1\"}");
  EXPECT_EQ(message(parse_hostfile("f", "# nothing\n")),
            "f: no hosts in it; expected lines such as `node1 slots=4`");
}

TEST(Places, FillOneHostAfterTheOther) {
  const std::vector<Host> hosts = {{"a", 2, ""}, {"b", 1, ""}, {"c", 2, ""}};
  EXPECT_EQ(
      place_ranks(hosts, 5).value(),
      (std::vector<RankPlace>{
          {0, 0, 2, 0, 3}, {0, 1, 2, 0, 2}, {1, 0, 1, 1, 3}, {2, 0, 2, 2, 3}, {2, 1, 2, 1, 2}}));
  EXPECT_EQ(place_ranks(hosts, 2).value(),
            (std::vector<RankPlace>{{0, 0, 2, 0, 1}, {0, 1, 2, 0, 1}}));
  EXPECT_EQ(place_ranks(hosts, 6).status().message(),
            "-np 6: a:2,b:1,c:2 have 5 slots; give the hosts more, or fewer ranks");
}

TEST(ThisMachine, IsKnownByNameAndAddress) {
  EXPECT_TRUE(is_this_machine("localhost"));
  EXPECT_TRUE(is_this_machine("::1"));
  EXPECT_FALSE(is_this_machine("192.0.2.1"));
  EXPECT_FALSE(is_this_machine("another"));
}

}  // namespace
}  // namespace hora
