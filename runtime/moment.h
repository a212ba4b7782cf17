#pragma once

#include <cstdint>
#include <string>

#include "runtime/vocabulary.h"

namespace hora {

struct Name;

/// Something that happened to a request or a bucket, as the timeline's ring carries it: small, of
/// fixed size, and without memory of its own. `name` and `text` outlive the timeline.
struct Moment {
  enum class Kind : uint8_t {
    kSubmitted,  ///< name; plan: when the engine took it up; amount: the set; detail: its Op
    kAgreed,     ///< name, plan; amount: bytes of the slice
    kBegun,      ///< plan; amount: Op + 256 * how its payloads are added up; detail: the lane
    kEnded,      ///< plan; amount: bytes; detail: the Code
    kDone,       ///< name; detail: the Code
    kWaited,     ///< name; plan: when the wait ended
    kRange,      ///< text; plan: when the range ended
  };
  int64_t at = 0;  ///< ns of the engine's clock; of a wait or range, its beginning
  union {
    const Name* name = nullptr;
    const std::string* text;
  };
  uint64_t plan = 0;
  uint64_t amount : 48 = 0;
  uint64_t kind : 8 = 0;
  uint64_t detail : 8 = 0;

  Kind what() const { return static_cast<Kind>(kind); }
  static Moment of(Kind kind, int64_t at, const Name* name, uint64_t plan, uint64_t amount,
                   uint64_t detail) {
    Moment moment;
    moment.at = at;
    moment.name = name;
    moment.plan = plan;
    moment.amount = amount & ((uint64_t{1} << 48) - 1);
    moment.kind = static_cast<uint8_t>(kind);
    moment.detail = detail & 0xFF;
    return moment;
  }
};
static_assert(sizeof(Moment) == 32);

}  // namespace hora
