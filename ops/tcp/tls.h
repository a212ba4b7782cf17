#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <openssl/ssl.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "hora/status.h"
#include "ops/tcp/handshake.h"
#include "ops/tcp/socket.h"

namespace hora::tcp {

/// What processes of one job need to encrypt what they say to each other: TLS 1.3 with a pre-shared
/// key, HKDF-SHA256(secret, salt = job, info = "hora tls 1"), fresh Diffie-Hellman numbers for each
/// connection (psk_dhe_ke), and TLS_AES_128_GCM_SHA256. There are no certificates, no older
/// versions, no tickets and no early data: who lacks the key gets no further than the first
/// message. Who records a connection cannot read it later, even with the secret.
///
/// Threads: any. Shared by its connections.
class TlsKey {
 public:
  /// What one AES key may encrypt. RFC 8446 (section 5.5) allows 24 million records of 16 KiB.
  static constexpr uint64_t kRenewAfterBytes = uint64_t{64} << 30;

  TlsKey(const Secret& secret, const std::array<uint8_t, 16>& job,
         uint64_t renew_after_bytes = kRenewAfterBytes);
  TlsKey(const TlsKey&) = delete;
  TlsKey& operator=(const TlsKey&) = delete;

 private:
  friend class Tls;
  static int use(SSL* ssl, const EVP_MD* digest, const unsigned char** identity, size_t* bytes,
                 SSL_SESSION** session);
  static int find(SSL* ssl, const unsigned char* identity, size_t bytes, SSL_SESSION** session);
  SSL_SESSION* session(SSL* ssl) const;

  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(BIO_METHOD* method) const { BIO_meth_free(method); }
  };
  const Secret key_;
  const std::string identity_;  ///< of the key: which job's it is
  const uint64_t renew_after_bytes_;
  std::unique_ptr<BIO_METHOD, Free> method_;
  std::unique_ptr<SSL_CTX, Free> context_;
};

/// The encryption of one connection. Its handshake takes place in the first calls of read() and
/// write(); the client writes first.
///
/// Ownership: borrows the socket. Threads: one at a time.
class Tls {
 public:
  Tls(std::shared_ptr<const TlsKey> key, int socket, Side side);
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  /// As Socket's. After EAGAIN, or fewer bytes than asked for, the next write() must begin with the
  /// same bytes that were left over.
  ssize_t read(const iovec* pieces, size_t count);
  ssize_t write(const iovec* pieces, size_t count);

  bool agreeing() const { return !agreed_; }

  /// Why read() or write() ended with EPROTO. kMismatch: the other side is not set up alike;
  /// kUnavailable: it does not know the secret; kCorrupt: it is none of ours, or somebody changed
  /// bytes on the way.
  const Status& error() const { return error_; }

 private:
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  friend class TlsKey;
  static int receive(BIO* bio, char* to, int bytes);
  static int collect(BIO* bio, const char* from, int bytes);
  static long control(BIO* bio, int command, long number, void* pointer);

  bool flush();
  ssize_t encrypt(const iovec* pieces, size_t count, size_t skip);
  void renew_if_due(size_t bytes);
  ssize_t failed(int result);
  ssize_t refuse(Status why);
  Status hung_up() const;
  Status reason() const;

  const std::shared_ptr<const TlsKey> key_;
  const int socket_;
  const Side side_;
  std::unique_ptr<SSL, Free> ssl_;
  Status error_;

  std::string outgoing_;         ///< encrypted, not yet taken by the system
  size_t sent_ = 0;              ///< of it
  size_t promised_ = 0;          ///< plain bytes in it that write() has not yet said were taken
  uint64_t encrypted_ = 0;       ///< plain bytes with the present key
  std::array<char, 4> first_{};  ///< bytes of the other side
  size_t heard_ = 0;             ///< of them
  int errno_ = 0;                ///< of the last receive
  bool agreed_ = false;          ///< the handshake is over, and was good
  bool drained_ = false;         ///< the system has no more at present
  bool eof_ = false;
};

}  // namespace hora::tcp
