#include "ops/tcp/tls.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <openssl/tls1.h>
#include <sys/socket.h>

namespace hora::tcp {
namespace {

constexpr size_t kRecord = 16 << 10;  // the most that a record of TLS carries
constexpr size_t kBatch = 4 * kRecord;
constexpr size_t kReadBuffer = 64 << 10;
constexpr unsigned char kAes128GcmSha256[] = {0x13, 0x01};
constexpr std::string_view kPlainHello = "HORA";
// What a server says to a client that does not encrypt: a fatal alert, "protocol version".
constexpr std::string_view kAlert("\x15\x03\x03\x00\x02\x02\x46", 7);

TlsKey* key_of(SSL* ssl) {
  return static_cast<TlsKey*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

std::string identity_of(const std::array<uint8_t, 16>& job) {
  return "hora" + std::string(reinterpret_cast<const char*>(job.data()), job.size());
}

/// Where in a list of pieces one is.
class Place {
 public:
  Place(const iovec* pieces, size_t count, size_t skip) : pieces_(pieces), count_(count) {
    while (skip > 0) skip -= advance(std::min(skip, left()));
    skip_empty();
  }
  bool ended() const { return count_ == 0; }
  bool last() const { return count_ == 1; }
  size_t left() const { return pieces_->iov_len - done_; }
  char* at() const { return static_cast<char*>(pieces_->iov_base) + done_; }
  size_t advance(size_t bytes) {
    done_ += bytes;
    skip_empty();
    return bytes;
  }

 private:
  void skip_empty() {
    for (; count_ > 0 && left() == 0; ++pieces_, --count_) done_ = 0;
  }
  const iovec* pieces_;
  size_t count_, done_ = 0;
};

}  // namespace

TlsKey::TlsKey(const Secret& secret, const std::array<uint8_t, 16>& job, uint64_t renew_after_bytes)
    : key_(derive_key(secret, job, "hora tls 1")),
      identity_(identity_of(job)),
      renew_after_bytes_(renew_after_bytes),
      method_(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "hora")),
      context_(SSL_CTX_new(TLS_method())) {
  HORA_CHECK(method_ && context_, "libssl has no TLS");
  BIO_meth_set_read(method_.get(), &Tls::receive);
  BIO_meth_set_write(method_.get(), &Tls::collect);
  BIO_meth_set_ctrl(method_.get(), &Tls::control);
  SSL_CTX* const context = context_.get();
  SSL_CTX_set_app_data(context, this);
  HORA_CHECK(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                 SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
                 SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") == 1 &&
                 SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1 &&
                 SSL_CTX_set_num_tickets(context, 0) == 1,
             "libssl has no TLS 1.3 with AES");
  SSL_CTX_set_psk_use_session_callback(context, &TlsKey::use);
  SSL_CTX_set_psk_find_session_callback(context, &TlsKey::find);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_clear_options(context, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, kReadBuffer);
}

SSL_SESSION* TlsKey::session(SSL* ssl) const {
  SSL_SESSION* const made = SSL_SESSION_new();
  const SSL_CIPHER* const cipher = SSL_CIPHER_find(ssl, kAes128GcmSha256);
  HORA_CHECK(made && cipher && SSL_SESSION_set1_master_key(made, key_.data(), key_.size()) == 1 &&
                 SSL_SESSION_set_cipher(made, cipher) == 1 &&
                 SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION) == 1,
             "libssl takes no key");
  return made;
}

int TlsKey::use(SSL* ssl, const EVP_MD* digest, const unsigned char** identity, size_t* bytes,
                SSL_SESSION** session) {
  const TlsKey& key = *key_of(ssl);
  *session = nullptr;
  if (digest != nullptr && !EVP_MD_is_a(digest, "SHA256")) return 1;
  *identity = reinterpret_cast<const unsigned char*>(key.identity_.data());
  *bytes = key.identity_.size();
  *session = key.session(ssl);
  return 1;
}

int TlsKey::find(SSL* ssl, const unsigned char* identity, size_t bytes, SSL_SESSION** session) {
  const TlsKey& key = *key_of(ssl);
  const bool ours =
      key.identity_ == std::string_view(reinterpret_cast<const char*>(identity), bytes);
  *session = ours ? key.session(ssl) : nullptr;
  return 1;
}

Tls::Tls(std::shared_ptr<const TlsKey> key, int socket, Side side)
    : key_(std::move(key)), socket_(socket), side_(side), ssl_(SSL_new(key_->context_.get())) {
  BIO* const bio = BIO_new(key_->method_.get());
  HORA_CHECK(ssl_ && bio, "libssl has no memory");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  side == Side::kClient ? SSL_set_connect_state(ssl_.get()) : SSL_set_accept_state(ssl_.get());
  // Nobody is trusted for a certificate: a server that shows one instead of the key is refused.
  if (side == Side::kClient) SSL_set_verify(ssl_.get(), SSL_VERIFY_PEER, nullptr);
}

/// From the socket to TLS.
int Tls::receive(BIO* bio, char* to, int bytes) {
  Tls& self = *static_cast<Tls*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (!self.drained_) {
    ssize_t got = 0;
    do {
      got = ::recv(self.socket_, to, static_cast<size_t>(bytes), MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    self.drained_ = got < bytes;
    self.eof_ = got == 0;
    if (got > 0) {
      const size_t part = std::min(self.first_.size() - self.heard_, static_cast<size_t>(got));
      std::memcpy(self.first_.data() + self.heard_, to, part);
      self.heard_ += part;
      return static_cast<int>(got);
    }
    self.errno_ = got < 0 && errno != EAGAIN ? errno : 0;
  }
  if (self.eof_ || self.errno_ != 0) return self.eof_ ? 0 : -1;
  BIO_set_retry_read(bio);
  return -1;
}

/// From TLS to outgoing_, which has room for all that one call makes.
int Tls::collect(BIO* bio, const char* from, int bytes) {
  BIO_clear_retry_flags(bio);
  static_cast<Tls*>(BIO_get_data(bio))->outgoing_.append(from, static_cast<size_t>(bytes));
  return bytes;
}

long Tls::control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return static_cast<Tls*>(BIO_get_data(bio))->eof_;
  return command == BIO_CTRL_FLUSH;
}

bool Tls::flush() {
  while (sent_ < outgoing_.size()) {
    const ssize_t sent = ::send(socket_, outgoing_.data() + sent_, outgoing_.size() - sent_,
                                MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0)
      sent_ += static_cast<size_t>(sent);
    else if (errno != EINTR)
      return false;
  }
  outgoing_.clear();
  sent_ = 0;
  return true;
}

ssize_t Tls::write(const iovec* pieces, size_t count) {
  for (size_t taken = 0;;) {
    if (!flush()) return taken > 0 ? static_cast<ssize_t>(taken) : -1;
    taken += std::exchange(promised_, 0);
    const ssize_t made = encrypt(pieces, count, taken);
    if (made == 0) return static_cast<ssize_t>(taken);
    if (made < 0) return taken > 0 ? static_cast<ssize_t>(taken) : -1;
    promised_ = static_cast<size_t>(made);
  }
}

/// Encrypts some of what follows the first `skip` bytes.
ssize_t Tls::encrypt(const iovec* pieces, size_t count, size_t skip) {
  if (!error_.ok()) return refuse(error_);
  drained_ = eof_ || errno_ != 0;
  size_t done = 0;
  char gathered[kRecord];
  for (Place place(pieces, count, skip); !place.ended() && done < kBatch;) {
    const char* record = place.at();
    size_t bytes = std::min(place.left(), kRecord);
    if (bytes == kRecord || place.last()) {
      place.advance(bytes);
    } else {
      for (bytes = 0; !place.ended() && bytes < kRecord;) {
        const size_t part = std::min(place.left(), kRecord - bytes);
        std::memcpy(gathered + bytes, place.at(), part);
        bytes += place.advance(part);
      }
      record = gathered;
    }
    ERR_clear_error();
    renew_if_due(bytes);
    const int result = SSL_write(ssl_.get(), record, static_cast<int>(bytes));
    if (result <= 0) return failed(result);
    agreed_ = true;
    done += bytes;
  }
  return static_cast<ssize_t>(done);
}

void Tls::renew_if_due(size_t bytes) {
  encrypted_ += bytes;
  if (encrypted_ <= key_->renew_after_bytes_ || agreeing()) return;
  HORA_CHECK(SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1, "no new key");
  encrypted_ = bytes;
}

ssize_t Tls::read(const iovec* pieces, size_t count) {
  if (!error_.ok()) return refuse(error_);
  drained_ = eof_ || errno_ != 0;  // an end stays one
  size_t done = 0;
  for (Place place(pieces, count, 0); !place.ended();) {
    ERR_clear_error();
    const size_t room = std::min<size_t>(place.left(), INT_MAX);
    const int got = SSL_read(ssl_.get(), place.at(), static_cast<int>(room));
    if (got <= 0) {
      const ssize_t why = failed(got);
      return done > 0 ? static_cast<ssize_t>(done) : why;
    }
    agreed_ = true;
    done += place.advance(static_cast<size_t>(got));
  }
  if (promised_ == 0) (void)flush();  // the handshake's last words may be left
  return static_cast<ssize_t>(done);
}

/// What a call that gave `result` means for the caller.
ssize_t Tls::failed(int result) {
  const int why = SSL_get_error(ssl_.get(), result);
  agreed_ |= SSL_is_init_finished(ssl_.get()) != 0;  // which is false again after an error
  const bool proving = agreeing();
  if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
    // What the handshake has to say; of write(), more would have to be told to its caller.
    if (promised_ == 0 && !flush()) return -1;
    errno = EAGAIN;
    return -1;
  }
  if (eof_ || errno_ != 0) {
    if (proving && (eof_ || errno_ == ECONNRESET)) return refuse(hung_up());
    errno = errno_;
    return eof_ ? 0 : -1;
  }
  if (why == SSL_ERROR_ZERO_RETURN) return 0;
  Status reason = this->reason();
  ERR_clear_error();
  const bool plain = std::string_view(first_.data(), heard_) == kPlainHello;
  if (proving && plain && side_ == Side::kServer) outgoing_ = kAlert;
  (void)flush();  // an alert, for the other side's message
  return refuse(std::move(reason));
}

ssize_t Tls::refuse(Status why) {
  error_ = std::move(why);
  errno = EPROTO;
  return -1;
}

Status Tls::hung_up() const {
  if (side_ == Side::kServer) return {Code::kUnavailable, "it hung up"};
  return {Code::kMismatch, "it hung up on this rank's TLS: is HORA_TLS=1 set there, too?"};
}

/// Alerts are the other side's opinion, told by their number.
Status Tls::reason() const {
  constexpr int kOtherKey = SSL_AD_REASON_OFFSET + SSL_AD_ILLEGAL_PARAMETER,
                kOtherProof = SSL_AD_REASON_OFFSET + SSL_AD_DECRYPT_ERROR,
                kNoKey = SSL_AD_REASON_OFFSET + SSL_AD_HANDSHAKE_FAILURE;
  const int reason = ERR_GET_REASON(ERR_peek_error());
  const bool proving = agreeing();
  if (proving && std::string_view(first_.data(), heard_) == kPlainHello)
    return {Code::kMismatch, "it does not encrypt: HORA_TLS=1 is set here and not there"};
  const bool told = side_ == Side::kClient && (reason == kOtherKey || reason == kOtherProof);
  if (proving && (told || reason == SSL_R_BINDER_DOES_NOT_VERIFY))
    return {Code::kMismatch, "its HORA_SECRET is another"};
  if (proving && (reason == kNoKey || reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM))
    return {Code::kMismatch, "it belongs to another job"};
  const char* const text = ERR_reason_error_string(ERR_peek_error());
  return {Code::kCorrupt,
          fmt::format("what it says is not this job's TLS ({})", text ? text : "no reason")};
}

}  // namespace hora::tcp
