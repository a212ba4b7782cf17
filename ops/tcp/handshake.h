#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "hora/request.h"
#include "hora/status.h"

/// How two processes of one job that meet over a network prove to each other that they know the
/// job's secret, before either believes a byte of the other.
namespace hora::tcp {

using Secret = std::array<uint8_t, 32>;
using Nonce = std::array<uint8_t, 32>;

enum class Role : uint8_t { kStore = 1, kControl = 2, kData = 3, kProbe = 4 };
std::string_view name_of(Role role);

/// Which member of which job, in which period of constant membership.
struct Identity {
  std::array<uint8_t, 16> job{};
  uint32_t epoch = 1;
  Rank rank = 0;  ///< kNobody: a launcher
};
constexpr Rank kNobody = -1;

/// What a job's name is in an Identity.
std::array<uint8_t, 16> job_of(std::string_view name);

/// Reads 64 hexadecimal digits, the form of HORA_SECRET. Errors: kInvalidArgument, without them.
Result<Secret> parse_secret(std::string_view digits);

/// How often in a row a client asks who hangs up on it at once, before it takes that for an answer.
constexpr int kRefusals = 5;

/// Numbers for one handshake that nobody can foresee.
Nonce fresh_nonce();

/// HKDF-SHA256(secret, salt = job, info): for each purpose of its own, a key of which nobody can
/// tell another.
Secret derive_key(const Secret& secret, const std::array<uint8_t, 16>& job, std::string_view info);

/// The key of all handshakes of a job, of info "hora control 1".
Secret handshake_key(const Secret& secret, const std::array<uint8_t, 16>& job);

/// One side of the handshake as a pure state machine: bytes in, bytes out, no socket.
///
///     client -> server  hello      "HORA" version_min:u8 version_max:u8 zero:u16 job:16 epoch:u32
///                                  rank:u32 role:u8 stream:u8 zero:u16 nonce:32          68 bytes
///     server -> client  challenge  "HORA" version:u8 flags:u8 zero:u16 epoch:u32 rank:u32
///                                  nonce:32                                              48 bytes
///     client -> server  proof      HMAC(key, "hora client" hello challenge)              32 bytes
///     server -> client  accept     HMAC(key, "hora server" hello challenge proof)        32 bytes
///
/// Numbers are little-endian. The server proves itself only after the client did. Fresh nonces stop
/// replays, the labels stop reflections, and the transcript binds version, role, rank and epoch.
/// MACs are compared in constant time.
///
/// Threads: one at a time. Errors of feed(): kCorrupt (not this protocol), kMismatch (another
/// version, job, epoch, rank or secret, or only one side encrypts). After one, send what is in
/// `output` and hang up: strangers get no answer, but members of the job whose epoch or version
/// differs get a challenge, from which they see why.
class Handshake {
 public:
  static constexpr size_t kHello = 68, kChallenge = 48, kMac = 32;
  static constexpr uint8_t kVersion = 1;

  /// What a client asks for.
  struct Claim {
    Rank rank = 0;
    Role role = Role::kStore;
    uint8_t stream = 0;
  };

  /// `self` asks `server` for a connection. `key` is handshake_key().
  static Handshake client(const Secret& key, const Identity& self, Rank server, Role role,
                          uint8_t stream, const Nonce& nonce);
  static Handshake server(const Secret& key, const Identity& self, const Nonce& nonce);

  /// How many bytes it still takes of the message it waits for; 0 once done. Read no more than
  /// this: what follows belongs to somebody else.
  size_t wants() const { return wants_ - input_.size(); }

  /// Takes at most wants() bytes.
  Status feed(std::string_view bytes);

  /// What must be sent now; the caller removes what it has sent.
  std::string output;

  /// Both sides have proved themselves; what is left in `output` still has to be sent.
  bool done() const { return wants_ == 0; }

  /// At a server, once the hello has come: unproved until done().
  const Claim& claim() const { return claim_; }

  /// At a client: it has sent its proof.
  bool proved() const { return stage_ == Stage::kAccept || stage_ == Stage::kDone; }

  /// At a client whose server has hung up: what that probably means.
  std::string_view reason() const;

 private:
  enum class Stage : uint8_t { kHello, kChallenge, kProof, kAccept, kDone };
  Handshake(const Secret& key, const Identity& self, Stage stage, const Nonce& nonce);
  void await(Stage stage, size_t bytes);
  Status take_hello();
  void challenge();
  Status take_challenge();
  Status take_proof();
  Status take_accept();
  std::string mac(std::string_view label) const;

  Secret key_;
  Identity self_;
  Nonce nonce_;
  Rank server_ = 0;  ///< whom a client wants to meet
  Claim claim_;
  Stage stage_;
  size_t wants_ = 0;
  std::string input_;       ///< of the message that it waits for
  std::string transcript_;  ///< all messages so far
};

}  // namespace hora::tcp
