// Goal: what two members of a job say to each other arrives, and nobody between or instead of them
// reads, changes or fakes it. Method: both ends of a connection in this thread, with the test as
// the network between them: it carries bytes from one socket pair to another, and may look at them
// or change them.
#include <fcntl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include "ops/tcp/socket.h"
#include "ops/tcp/tls.h"

namespace hora::tcp {
namespace {

std::pair<Descriptor, Descriptor> pair_of_sockets() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

std::shared_ptr<const TlsKey> key_of(const Secret& secret,
                                     uint64_t renew_after = TlsKey::kRenewAfterBytes) {
  return std::make_shared<const TlsKey>(secret, job_of("a job"), renew_after);
}

/// A client, a server, and all that passes between them.
struct Wiretap {
  explicit Wiretap(const std::shared_ptr<const TlsKey>& key) : Wiretap(key, key) {}
  Wiretap(std::shared_ptr<const TlsKey> clients, std::shared_ptr<const TlsKey> servers) {
    auto [a, near] = pair_of_sockets();
    auto [b, far] = pair_of_sockets();
    client = Socket(std::move(a), std::move(clients), Side::kClient);
    server = Socket(std::move(b), std::move(servers), Side::kServer);
    ends[0] = std::move(near), ends[1] = std::move(far);
  }

  /// Carries what there is in both directions; `change` may do so.
  void carry() {
    for (const int from : {0, 1}) {
      char bytes[4096];
      const ssize_t got = ::recv(ends[from].get(), bytes, sizeof(bytes), 0);
      if (got <= 0) continue;
      std::string text(bytes, static_cast<size_t>(got));
      if (change) change(from, text);
      seen[from] += text;
      ASSERT_EQ(::send(ends[1 - from].get(), text.data(), text.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(text.size()));
    }
  }

  /// Says `text` from one side and returns what the other hears; ends when somebody fails.
  std::string say(Socket& from, Socket& to, const std::string& text, size_t piece = 1 << 20) {
    std::string heard;
    size_t said = 0;
    for (int turn = 0; heard.size() < text.size() && turn < 200'000; ++turn) {
      if (said < text.size()) {
        const ssize_t sent = from.write(std::string_view(text).substr(said, piece));
        if (sent > 0) said += static_cast<size_t>(sent);
        if (sent < 0 && errno != EAGAIN) trouble = from.failure();
      }
      carry();
      char bytes[10'000];
      const ssize_t got = to.read(bytes, std::min(piece, sizeof(bytes)));
      if (got > 0) heard.append(bytes, static_cast<size_t>(got));
      if (got < 0 && errno != EAGAIN) trouble = to.failure();
      if (got == 0 || !trouble.ok()) break;
    }
    return heard;
  }

  Socket client, server;
  Descriptor ends[2];
  std::string seen[2];  ///< from the client, from the server
  std::function<void(int from, std::string& text)> change;
  Status trouble;
};

std::string noise(size_t bytes) {
  std::mt19937 random(7);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

TEST(TcpTls, CarriesAllBytesInBothDirectionsHoweverTheyAreCut) {
  const std::string text = noise(300'000);
  for (const size_t piece : {1 << 20, 16'385, 4'096, 1'000}) {
    Wiretap wire(key_of({1}));
    EXPECT_TRUE(wire.say(wire.client, wire.server, text, piece) == text) << piece;
    EXPECT_TRUE(wire.say(wire.server, wire.client, text, piece) == text) << piece;
    EXPECT_EQ(wire.trouble, Status());
  }
}

TEST(TcpTls, GathersAndScattersPiecesOfAllLengths) {
  Wiretap wire(key_of({1}));
  wire.say(wire.client, wire.server, "x");
  const std::string text = noise(60'000);
  std::string left = text, heard(text.size(), '\0');
  const size_t cuts[] = {0, 32, 33, 0, 17'000, 1, 20'000, 22'934};
  std::vector<iovec> out, in;
  size_t at = 0;
  for (const size_t bytes : cuts) {
    out.push_back({left.data() + at, bytes});
    at += bytes;
  }
  ASSERT_EQ(at, text.size());
  ASSERT_EQ(wire.client.write(out.data(), out.size()), 60'000);
  for (int turn = 0; turn < 100; ++turn) wire.carry();
  std::reverse(std::begin(out), std::end(out));  // cuts of other lengths
  at = 0;
  for (const iovec& piece : out) {
    in.push_back({heard.data() + at, piece.iov_len});
    at += piece.iov_len;
  }
  ASSERT_EQ(wire.server.read(in.data(), in.size()), 60'000);
  EXPECT_TRUE(heard == text);
}

TEST(TcpTls, NobodyBetweenCanReadIt) {
  Wiretap wire(key_of({1}));
  const std::string text(1'000, 's');
  EXPECT_TRUE(wire.say(wire.client, wire.server, text) == text);
  EXPECT_TRUE(wire.say(wire.server, wire.client, text) == text);
  for (const std::string& seen : wire.seen) {
    EXPECT_GT(seen.size(), text.size());
    EXPECT_EQ(seen.find("ssss"), std::string::npos);
  }
}

TEST(TcpTls, EveryChangeOnTheWayIsNoticed) {
  for (const int from : {0, 1}) {
    for (size_t at = 0; at < 2'000; at += 37) {
      Wiretap wire(key_of({1}));
      wire.change = [&](int side, std::string& text) {
        const size_t begin = wire.seen[side].size();
        if (side == from && begin <= at && at < begin + text.size())
          text[at - begin] = static_cast<char>(text[at - begin] ^ 1);
      };
      const std::string text(1'000, 's');
      std::string heard = wire.say(wire.client, wire.server, text);
      if (wire.trouble.ok() && heard == text) heard = wire.say(wire.server, wire.client, text);
      if (at >= wire.seen[from].size()) break;
      EXPECT_TRUE(heard != text) << from << " " << at;
    }
  }
}

TEST(TcpTls, TakesANewKeyBeforeTheOldIsWornOut) {
  // A new key is told in a record of 22 bytes: 5 of message, 1 of type and 16 of MAC.
  const std::string text = noise(1'000'000);
  Wiretap wire(key_of({1}, 100'000));
  EXPECT_TRUE(wire.say(wire.client, wire.server, text) == text);
  int renewals = 0;
  std::string_view seen = wire.seen[0];
  while (seen.size() >= 5) {
    const size_t bytes =
        static_cast<size_t>(static_cast<uint8_t>(seen[3])) << 8 | static_cast<uint8_t>(seen[4]);
    renewals += seen[0] == 0x17 && bytes == 22;
    seen.remove_prefix(std::min(seen.size(), 5 + bytes));
  }
  EXPECT_GE(renewals, 9);
  EXPECT_TRUE(wire.say(wire.server, wire.client, text) == text);
}

TEST(TcpTls, AnotherSecretIsToldToBothSides) {
  Wiretap wire(key_of({1}), key_of({2}));
  EXPECT_EQ(wire.say(wire.client, wire.server, "x"), "");
  EXPECT_EQ(wire.trouble, Status(Code::kMismatch, "its HORA_SECRET is another"));
  wire.carry();
  char byte = 0;
  ASSERT_EQ(wire.client.read(&byte, 1), -1);
  EXPECT_EQ(wire.client.failure(), Status(Code::kMismatch, "its HORA_SECRET is another"));
  ASSERT_EQ(wire.client.write("x"), -1);
  EXPECT_EQ(wire.client.failure(), Status(Code::kMismatch, "its HORA_SECRET is another"));
}

/// A server of somebody who has no key, but a certificate that he made himself.
std::unique_ptr<SSL, void (*)(SSL*)> server_with_certificate(int socket) {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  X509_set_version(certificate, 2);
  X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  EXPECT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  SSL_CTX* const context = SSL_CTX_new(TLS_server_method());
  EXPECT_EQ(SSL_CTX_use_certificate(context, certificate), 1);
  EXPECT_EQ(SSL_CTX_use_PrivateKey(context, key), 1);
  SSL* const ssl = SSL_new(context);
  SSL_set_fd(ssl, socket);
  SSL_CTX_free(context), X509_free(certificate), EVP_PKEY_free(key);
  return {ssl, SSL_free};
}

TEST(TcpTls, ACertificateIsNoSubstituteForTheKey) {
  auto [mine, theirs] = pair_of_sockets();
  Socket client(std::move(mine), key_of({1}), Side::kClient);
  const auto impostor = server_with_certificate(theirs.get());
  ssize_t said = -1;
  for (int turn = 0; turn < 100 && said < 0; ++turn) {
    said = client.write("secret");
    if (said < 0 && errno != EAGAIN) break;
    (void)SSL_accept(impostor.get());
  }
  ASSERT_EQ(said, -1);
  EXPECT_EQ(
      client.failure(),
      Status(Code::kCorrupt, "what it says is not this job's TLS (certificate verify failed)"));
  EXPECT_LE(SSL_accept(impostor.get()), 0);
}

TEST(TcpTls, AnEndIsAnEnd) {
  Wiretap wire(key_of({1}));
  EXPECT_EQ(wire.say(wire.client, wire.server, "last words"), "last words");
  ASSERT_EQ(wire.client.write("more"), 4);
  wire.carry();
  wire.ends[1].reset();
  char bytes[100];
  EXPECT_EQ(wire.server.read(bytes, sizeof(bytes)), 4);
  EXPECT_EQ(wire.server.read(bytes, sizeof(bytes)), 0);
  EXPECT_EQ(wire.server.read(bytes, sizeof(bytes)), 0);
  EXPECT_EQ(wire.server.write("x"), -1);
  EXPECT_EQ(errno, EPIPE);
}

}  // namespace
}  // namespace hora::tcp
