// Goal: nobody gets a connection who does not know the job's secret, and nothing that comes over a
// network is believed before.
// Method: both sides of the handshake in memory; every byte of a good one changed, left out,
// replayed and reflected. The golden messages were computed by another implementation (Python's
// hmac and hashlib).
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/tcp/handshake.h"
#include "tests/support/data.h"

namespace hora::tcp {
namespace {

Secret secret() {
  Secret secret{};
  for (size_t i = 0; i < secret.size(); ++i) secret[i] = static_cast<uint8_t>(i);
  return secret;
}

Nonce all(uint8_t value) {
  Nonce nonce{};
  nonce.fill(value);
  return nonce;
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes)
    for (const int shift : {4, 0})
      text += "0123456789abcdef"[static_cast<uint8_t>(c) >> shift & 15];
  return text;
}

std::string take(Handshake& from) {
  return std::exchange(from.output, {});
}

/// A meeting of rank 3, who connects, and rank 1; each part may be changed before it begins.
struct Meeting {
  Identity client{job_of("a job"), 7, 3}, server{job_of("a job"), 7, 1};
  Secret client_secret = secret(), server_secret = secret();
  Rank wanted = 1;
  Role role = Role::kData;
  Nonce client_nonce = all(1), server_nonce = all(2);

  Handshake connects() const {
    return Handshake::client(handshake_key(client_secret, client.job), client, wanted, role, 9,
                             client_nonce);
  }
  Handshake listens() const {
    return Handshake::server(handshake_key(server_secret, server.job), server, server_nonce);
  }
};

struct Messages {
  std::string hello, challenge, proof, accept;
};

/// All messages of a good meeting.
Messages messages_of(const Meeting& meeting) {
  Handshake client = meeting.connects(), server = meeting.listens();
  Messages messages;
  messages.hello = take(client);
  EXPECT_TRUE(server.feed(messages.hello).ok());
  messages.challenge = take(server);
  EXPECT_TRUE(client.feed(messages.challenge).ok());
  messages.proof = take(client);
  EXPECT_TRUE(server.feed(messages.proof).ok());
  messages.accept = take(server);
  EXPECT_TRUE(client.feed(messages.accept).ok());
  EXPECT_TRUE(client.done() && server.done());
  return messages;
}

/// How far a server goes that is sent these two messages; ok: it is convinced.
Status convince(const Meeting& meeting, const std::string& hello, const std::string& proof) {
  Handshake server = meeting.listens();
  HORA_TRY(server.feed(hello));
  HORA_TRY(server.feed(proof));
  return server.done() ? Status() : Status(Code::kTimeout, "it waits");
}

TEST(TcpHandshake, ConvincesBothSidesOfOneJob) {
  Handshake client = Meeting().connects(), server = Meeting().listens();
  EXPECT_EQ(server.wants(), Handshake::kHello);
  EXPECT_EQ(client.wants(), Handshake::kChallenge);
  ASSERT_TRUE(server.feed(take(client)).ok());
  EXPECT_EQ(server.claim().rank, 3);
  EXPECT_EQ(server.claim().role, Role::kData);
  EXPECT_EQ(server.claim().stream, 9);
  ASSERT_TRUE(client.feed(take(server)).ok());
  EXPECT_FALSE(client.done());
  ASSERT_TRUE(server.feed(take(client)).ok());
  EXPECT_TRUE(server.done());
  EXPECT_FALSE(client.done());
  ASSERT_TRUE(client.feed(take(server)).ok());
  EXPECT_TRUE(client.done());
  EXPECT_EQ(server.wants(), 0u);
  EXPECT_EQ(client.wants(), 0u);
}

TEST(TcpHandshake, SaysTheBytesThatAnotherImplementationSays) {
  const Messages messages = messages_of(Meeting());
  const std::string job = "cec0dd209335167a990350dc5dbe04b7";
  std::string ones, twos;
  for (int i = 0; i < 32; ++i) ones += "01", twos += "02";
  EXPECT_EQ(hex(messages.hello), "484f524101010000" + job + "070000000300000003090000" + ones);
  EXPECT_EQ(hex(messages.challenge), "484f5241010000000700000001000000" + twos);
  EXPECT_EQ(hex(messages.proof),
            "c99a4733618a0d5242175ef0813f2a05aa1a4995cbdcb8d3d874669b6bfdfa32");
  EXPECT_EQ(hex(messages.accept),
            "39ad3f880399b420475debc0049fc35a155df15e71e87c52040f1b874aa82809");
}

TEST(TcpHandshake, TakesMessagesInAnyPieces) {
  const Messages messages = messages_of(Meeting());
  Handshake server = Meeting().listens();
  for (const char c : messages.hello) ASSERT_TRUE(server.feed({&c, 1}).ok());
  EXPECT_EQ(take(server), messages.challenge);
  for (const char c : messages.proof) ASSERT_TRUE(server.feed({&c, 1}).ok());
  EXPECT_TRUE(server.done());
}

TEST(TcpHandshake, WaitsForTheRestOfEveryTruncatedMessage) {
  const Messages messages = messages_of(Meeting());
  for (size_t bytes = 0; bytes < messages.hello.size(); ++bytes) {
    Handshake server = Meeting().listens();
    EXPECT_TRUE(server.feed(messages.hello.substr(0, bytes)).ok());
    EXPECT_EQ(server.wants(), Handshake::kHello - bytes);
    EXPECT_TRUE(server.output.empty()) << bytes;
  }
  for (size_t bytes = 0; bytes < messages.proof.size(); ++bytes) {
    Handshake server = Meeting().listens();
    ASSERT_TRUE(server.feed(messages.hello).ok());
    take(server);
    EXPECT_TRUE(server.feed(messages.proof.substr(0, bytes)).ok());
    EXPECT_FALSE(server.done());
    EXPECT_TRUE(server.output.empty()) << bytes;
  }
}

TEST(TcpHandshake, AServerIsConvincedByNoMessageWithAnyBitChanged) {
  const Messages good = messages_of(Meeting());
  ASSERT_TRUE(convince(Meeting(), good.hello, good.proof).ok());
  for (size_t bit = 0; bit < 8 * good.hello.size(); ++bit) {
    std::string hello = good.hello;
    hello[bit / 8] = static_cast<char>(hello[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(convince(Meeting(), hello, good.proof).ok()) << "hello, bit " << bit;
  }
  for (size_t bit = 0; bit < 8 * good.proof.size(); ++bit) {
    std::string proof = good.proof;
    proof[bit / 8] = static_cast<char>(proof[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(convince(Meeting(), good.hello, proof).ok()) << "proof, bit " << bit;
  }
}

TEST(TcpHandshake, AClientIsConvincedByNoMessageWithAnyBitChanged) {
  const Messages good = messages_of(Meeting());
  const auto convinced = [&](const std::string& challenge, const std::string& accept) {
    Handshake client = Meeting().connects();
    return client.feed(challenge).ok() && client.feed(accept).ok() && client.done();
  };
  ASSERT_TRUE(convinced(good.challenge, good.accept));
  for (size_t bit = 0; bit < 8 * good.challenge.size(); ++bit) {
    std::string challenge = good.challenge;
    challenge[bit / 8] = static_cast<char>(challenge[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(convinced(challenge, good.accept)) << "challenge, bit " << bit;
  }
  for (size_t bit = 0; bit < 8 * good.accept.size(); ++bit) {
    std::string accept = good.accept;
    accept[bit / 8] = static_cast<char>(accept[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(convinced(good.challenge, accept)) << "accept, bit " << bit;
  }
}

TEST(TcpHandshake, RefusesAnotherSecretOnBothSides) {
  Meeting wrong;
  wrong.client_secret[31] ^= 1;
  Handshake client = wrong.connects(), server = wrong.listens();
  ASSERT_TRUE(server.feed(take(client)).ok());
  ASSERT_TRUE(client.feed(take(server)).ok());
  const Status refused = server.feed(take(client));
  EXPECT_EQ(refused.code(), Code::kMismatch);
  EXPECT_EQ(refused.message(), "it does not know the job's secret");
  EXPECT_TRUE(server.output.empty());

  // A server that does not know the secret cannot convince a client either.
  const Messages good = messages_of(Meeting());
  Handshake honest = Meeting().connects();
  ASSERT_TRUE(honest.feed(good.challenge).ok());
  EXPECT_EQ(honest.feed(std::string(32, 'x')).code(), Code::kMismatch);
}

TEST(TcpHandshake, RefusesARecordedMeetingPlayedAgain) {
  const Messages recorded = messages_of(Meeting());
  Meeting later;
  later.server_nonce = all(3);
  EXPECT_EQ(convince(later, recorded.hello, recorded.proof).code(), Code::kMismatch);
  // And a false server that plays one back.
  later.client_nonce = all(4);
  Handshake client = later.connects();
  ASSERT_TRUE(client.feed(recorded.challenge).ok());
  EXPECT_EQ(client.feed(recorded.accept).code(), Code::kMismatch);
}

TEST(TcpHandshake, AReflectedProofIsNoProof) {
  Handshake client = Meeting().connects();
  const std::string hello = take(client);
  EXPECT_FALSE(client.feed(hello.substr(0, Handshake::kChallenge)).ok());

  Handshake again = Meeting().connects(), server = Meeting().listens();
  ASSERT_TRUE(server.feed(take(again)).ok());
  ASSERT_TRUE(again.feed(take(server)).ok());
  EXPECT_EQ(again.feed(take(again)).code(), Code::kMismatch);
}

TEST(TcpHandshake, SaysWhatDiffers) {
  const auto at_server = [](const Meeting& meeting) {
    Handshake client = meeting.connects(), server = meeting.listens();
    return server.feed(take(client)).message();
  };
  Meeting meeting;
  meeting.client.epoch = 8;
  EXPECT_EQ(at_server(meeting), "it is in epoch 8, not 7");
  meeting = {};
  meeting.client.job = job_of("another job");
  EXPECT_EQ(at_server(meeting), "it belongs to another job");

  std::string hello = messages_of(Meeting()).hello;
  hello[4] = 2, hello[5] = 5;
  Handshake server = Meeting().listens();
  EXPECT_EQ(server.feed(hello).message(), "it speaks versions 2 to 5, not 1");

  meeting = {};
  meeting.wanted = 2;
  Handshake client = meeting.connects(), other = meeting.listens();
  ASSERT_TRUE(other.feed(take(client)).ok());
  EXPECT_EQ(client.feed(take(other)).message(),
            "rank 1 of epoch 7 listens there, not rank 2 of epoch 7");
}

TEST(TcpHandshake, RefusesRolesAndRanksThatDoNotExist) {
  const std::string good = messages_of(Meeting()).hello;
  for (const auto& [at, value] :
       {std::pair{32, 0}, {32, 5}, {31, 0x80}, {6, 1}, {34, 1}, {0, 'h'}}) {
    std::string hello = good;
    hello[static_cast<size_t>(at)] = static_cast<char>(value);
    Handshake server = Meeting().listens();
    EXPECT_EQ(server.feed(hello).code(), Code::kCorrupt) << at;
  }
}

TEST(TcpHandshake, NoGarbageConvincesAnybody) {
  support::Random random(1);
  for (int turn = 0; turn < 2'000; ++turn) {
    Handshake server = Meeting().listens(), client = Meeting().connects();
    for (Handshake* side : {&server, &client}) {
      side->output.clear();
      while (!side->done()) {
        std::string garbage(1 + random.below(side->wants()), '\0');
        for (char& c : garbage) c = static_cast<char>(random.next());
        if (!side->feed(garbage).ok()) break;
      }
      EXPECT_FALSE(side->done());
      EXPECT_TRUE(side->output.empty());
    }
  }
}

TEST(TcpHandshake, ReadsSecretsAndNeverShowsThem) {
  const std::string digits = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
  const auto read = parse_secret(digits);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read.value()[1], 0x11);
  EXPECT_EQ(read.value()[15], 0xff);
  EXPECT_EQ(read.value()[16], 0xff);
  for (const std::string& bad :
       {std::string(), digits.substr(1), digits + "0", "g" + digits.substr(1)}) {
    const auto refused = parse_secret(bad);
    ASSERT_FALSE(refused.ok());
    EXPECT_TRUE(bad.empty() || refused.status().message().find(bad) == std::string::npos);
  }
}

TEST(TcpHandshake, NoncesAndKeysDiffer) {
  EXPECT_NE(fresh_nonce(), fresh_nonce());
  EXPECT_NE(handshake_key(secret(), job_of("a")), handshake_key(secret(), job_of("b")));
  EXPECT_NE(handshake_key(secret(), job_of("a")), secret());
}

}  // namespace
}  // namespace hora::tcp
