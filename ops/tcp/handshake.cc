#include "ops/tcp/handshake.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

namespace hora::tcp {
namespace {

constexpr std::string_view kMagic = "HORA";
constexpr std::string_view kTlsHello = "\x16\x03", kTlsAlert = "\x15\x03";  // how records begin
constexpr std::string_view kClientLabel = "hora client", kServerLabel = "hora server";

void append(std::string& bytes, uint32_t number) {
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(number >> shift & 0xff);
}

template <size_t N>
void append(std::string& bytes, const std::array<uint8_t, N>& array) {
  bytes.append(reinterpret_cast<const char*>(array.data()), N);
}

uint8_t byte_at(std::string_view bytes, size_t at) {
  return static_cast<uint8_t>(bytes[at]);
}

uint32_t number_at(std::string_view bytes, size_t at) {
  uint32_t number = 0;
  for (size_t i = 4; i-- > 0;) number = number << 8 | byte_at(bytes, at + i);
  return number;
}

bool zero_at(std::string_view bytes, size_t at) {
  return byte_at(bytes, at) == 0 && byte_at(bytes, at + 1) == 0;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string text_of(Rank rank) {
  return rank == kNobody ? "a launcher" : "rank " + std::to_string(rank);
}

}  // namespace

std::string_view name_of(Role role) {
  constexpr std::string_view kNames[] = {"store", "control", "data", "probe"};
  return kNames[static_cast<size_t>(role) - 1];
}

std::array<uint8_t, 16> job_of(std::string_view name) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const uint8_t*>(name.data()), name.size(), digest.data());
  std::array<uint8_t, 16> job{};
  std::copy_n(digest.begin(), job.size(), job.begin());
  return job;
}

Result<Secret> parse_secret(std::string_view digits) {
  Secret secret{};
  bool good = digits.size() == 2 * secret.size();
  for (size_t i = 0; good && i < secret.size(); ++i) {
    const int high = digit_of(digits[2 * i]), low = digit_of(digits[2 * i + 1]);
    good = high >= 0 && low >= 0;
    secret[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (good) return secret;
  return Status(Code::kInvalidArgument,
                "HORA_SECRET: ranks of several hosts need 64 hexadecimal digits, the same for all; "
                "horarun makes them");
}

Nonce fresh_nonce() {
  Nonce nonce{};
  HORA_CHECK(RAND_bytes(nonce.data(), static_cast<int>(nonce.size())) == 1,
             "the system has no random numbers");
  return nonce;
}

Secret derive_key(const Secret& secret, const std::array<uint8_t, 16>& job, std::string_view info) {
  const auto free_kdf = [](EVP_KDF* kdf) { EVP_KDF_free(kdf); };
  const auto free_context = [](EVP_KDF_CTX* context) { EVP_KDF_CTX_free(context); };
  const std::unique_ptr<EVP_KDF, decltype(free_kdf)> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                         free_kdf);
  HORA_CHECK(kdf, "libcrypto has no HKDF");
  const std::unique_ptr<EVP_KDF_CTX, decltype(free_context)> context(EVP_KDF_CTX_new(kdf.get()),
                                                                     free_context);
  std::string digest = "SHA256", label(info);
  Secret input = secret, key{};
  std::array<uint8_t, 16> salt = job;
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, input.data(), input.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt.data(), salt.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, label.data(), label.size()),
      OSSL_PARAM_construct_end()};
  HORA_CHECK(context && EVP_KDF_derive(context.get(), key.data(), key.size(), parameters) == 1,
             "HKDF failed");
  return key;
}

Secret handshake_key(const Secret& secret, const std::array<uint8_t, 16>& job) {
  return derive_key(secret, job, "hora control 1");
}

Handshake::Handshake(const Secret& key, const Identity& self, Stage stage, const Nonce& nonce)
    : key_(key), self_(self), nonce_(nonce), stage_(stage) {}

Handshake Handshake::client(const Secret& key, const Identity& self, Rank server, Role role,
                            uint8_t stream, const Nonce& nonce) {
  Handshake result(key, self, Stage::kChallenge, nonce);
  result.server_ = server;
  result.claim_ = {self.rank, role, stream};
  std::string& hello = result.output;
  hello.append(kMagic).append({kVersion, kVersion, 0, 0});
  append(hello, self.job);
  append(hello, self.epoch);
  append(hello, static_cast<uint32_t>(self.rank));
  hello.append({static_cast<char>(role), static_cast<char>(stream), 0, 0});
  append(hello, nonce);
  result.transcript_ = hello;
  result.await(Stage::kChallenge, kChallenge);
  return result;
}

Handshake Handshake::server(const Secret& key, const Identity& self, const Nonce& nonce) {
  Handshake result(key, self, Stage::kHello, nonce);
  result.await(Stage::kHello, kHello);
  return result;
}

void Handshake::await(Stage stage, size_t bytes) {
  stage_ = stage;
  wants_ = bytes;
  input_.clear();
}

std::string Handshake::mac(std::string_view label) const {
  const std::string message = std::string(label) + transcript_;
  std::string code(kMac, '\0');
  unsigned count = 0;
  HORA_CHECK(HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()),
                  reinterpret_cast<const uint8_t*>(message.data()), message.size(),
                  reinterpret_cast<uint8_t*>(code.data()), &count) != nullptr &&
                 count == kMac,
             "HMAC failed");
  return code;
}

Status Handshake::feed(std::string_view bytes) {
  HORA_CHECK(bytes.size() <= wants(), "more than it wants");
  input_.append(bytes);
  if (wants() > 0 || done()) return {};
  switch (stage_) {
    case Stage::kHello:
      return take_hello();
    case Stage::kChallenge:
      return take_challenge();
    case Stage::kProof:
      return take_proof();
    case Stage::kAccept:
      return take_accept();
    case Stage::kDone:
      break;
  }
  return {};
}

Status Handshake::take_hello() {
  const std::string_view hello = input_;
  if (hello.starts_with(kTlsHello))
    return {Code::kMismatch, "it encrypts: HORA_TLS=1 is set there and not here"};
  if (!hello.starts_with(kMagic) || !zero_at(hello, 6) || !zero_at(hello, 34))
    return {Code::kCorrupt, "what it says is not Hora's"};
  if (std::memcmp(hello.data() + 8, self_.job.data(), self_.job.size()) != 0)
    return {Code::kMismatch, "it belongs to another job"};
  challenge();
  if (byte_at(hello, 4) > kVersion || byte_at(hello, 5) < kVersion)
    return {Code::kMismatch, "it speaks versions " + std::to_string(byte_at(hello, 4)) + " to " +
                                 std::to_string(byte_at(hello, 5)) + ", not " +
                                 std::to_string(kVersion)};
  const uint32_t epoch = number_at(hello, 24);
  if (epoch != self_.epoch)
    return {Code::kMismatch,
            "it is in epoch " + std::to_string(epoch) + ", not " + std::to_string(self_.epoch)};
  claim_.rank = static_cast<Rank>(number_at(hello, 28));
  const uint8_t role = byte_at(hello, 32);
  if (role < static_cast<uint8_t>(Role::kStore) || role > static_cast<uint8_t>(Role::kProbe))
    return {Code::kCorrupt, "it asks for role " + std::to_string(role)};
  if (claim_.rank < kNobody) return {Code::kCorrupt, "it has no rank"};
  claim_.role = static_cast<Role>(role);
  claim_.stream = byte_at(hello, 33);
  await(Stage::kProof, kMac);
  return {};
}

/// Answers the hello. Also to a member of the job that has no business here: it learns why.
void Handshake::challenge() {
  output.append(kMagic).append({kVersion, 0, 0, 0});
  append(output, self_.epoch);
  append(output, static_cast<uint32_t>(self_.rank));
  append(output, nonce_);
  transcript_ = input_ + output;
}

Status Handshake::take_challenge() {
  const std::string_view challenge = input_;
  if (!challenge.starts_with(kMagic) || byte_at(challenge, 5) != 0 || !zero_at(challenge, 6))
    return {Code::kCorrupt, "what it says is not Hora's"};
  if (byte_at(challenge, 4) != kVersion)
    return {Code::kMismatch, "it speaks version " + std::to_string(byte_at(challenge, 4)) +
                                 ", not " + std::to_string(kVersion)};
  const auto rank = static_cast<Rank>(number_at(challenge, 12));
  if (number_at(challenge, 8) != self_.epoch || rank != server_)
    return {Code::kMismatch, text_of(rank) + " of epoch " +
                                 std::to_string(number_at(challenge, 8)) + " listens there, not " +
                                 text_of(server_) + " of epoch " + std::to_string(self_.epoch)};
  transcript_ += challenge;
  const std::string proof = mac(kClientLabel);
  transcript_ += proof;
  output += proof;
  await(Stage::kAccept, kMac);
  return {};
}

Status Handshake::take_proof() {
  if (!equal_in_constant_time(input_, mac(kClientLabel)))
    return {Code::kMismatch, "it does not know the job's secret"};
  transcript_ += input_;
  output += mac(kServerLabel);
  await(Stage::kDone, 0);
  return {};
}

Status Handshake::take_accept() {
  if (!equal_in_constant_time(input_, mac(kServerLabel)))
    return {Code::kMismatch, "it does not know the job's secret"};
  await(Stage::kDone, 0);
  return {};
}

std::string_view Handshake::reason() const {
  if (stage_ == Stage::kAccept)
    return "it refuses this rank's proof: its HORA_SECRET is another, or the rank is there already";
  if (input_.starts_with(kTlsAlert)) return "it encrypts: HORA_TLS=1 is set there and not here";
  return "it hung up on this rank's hello: it is of another job, or not Hora's";
}

}  // namespace hora::tcp
