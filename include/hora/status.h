#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace hora {

/// Why an operation did not succeed. Callers branch on the code; people read the message. The
/// numbers are in the C ABI; append only.
enum class Code : uint8_t {
  kOk,
  kInvalidArgument,  ///< the caller's mistake; nothing was queued
  kMismatch,    ///< ranks disagree about an operation; every rank is told the same, the job goes on
  kJoined,      ///< a member has joined, and zeros are not neutral for this operation
  kSetRemoved,  ///< the process set was removed while the request waited
  kPeerLeft,    ///< a member has shut down and will never submit this operation
  kShutdown,    ///< this engine has shut down
  kPeerLost,    ///< a rank died, was cut off or fell silent; the epoch has ended
  kTimeout,     ///< a deadline the caller gave has passed
  kOutOfMemory,  ///< memory that the operation needs could not be had
  kUnavailable,  ///< something this machine or build does not have
  kCorrupt,      ///< bytes from outside that no correct peer writes
  kInternal,     ///< our bug
};

std::string_view name_of(Code code);

/// The outcome of something that can fail at run time. Never thrown. An ok Status owns no memory.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  friend bool operator==(const Status&, const Status&) = default;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

/// A value, or the Status that explains its absence. value() needs ok().
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status error) : status_(std::move(error)) {}

  bool ok() const { return value_.has_value(); }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return *std::move(value_); }
  const Status& status() const { return status_; }

 private:
  std::optional<T> value_;
  Status status_;
};

/// Returns from the enclosing function when `expression` is not ok.
#define HORA_TRY(expression)                                                  \
  do {                                                                        \
    if (::hora::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

/// Says which invariant of ours is broken, with values, and aborts: our bug, also in Release.
#define HORA_CHECK(condition, ...)                                                      \
  do {                                                                                  \
    if (!(condition)) [[unlikely]]                                                      \
      ::hora::check_failed(__FILE__, __LINE__, #condition, ::std::string(__VA_ARGS__)); \
  } while (false)

[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& detail);

}  // namespace hora
