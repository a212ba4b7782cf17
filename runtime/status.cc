#include "hora/status.h"

#include <cstdio>
#include <cstdlib>

namespace hora {

std::string_view name_of(Code code) {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kInvalidArgument:
      return "invalid argument";
    case Code::kMismatch:
      return "mismatch";
    case Code::kJoined:
      return "joined";
    case Code::kSetRemoved:
      return "set removed";
    case Code::kPeerLeft:
      return "peer left";
    case Code::kShutdown:
      return "shut down";
    case Code::kPeerLost:
      return "peer lost";
    case Code::kTimeout:
      return "timeout";
    case Code::kOutOfMemory:
      return "out of memory";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kCorrupt:
      return "corrupt";
    case Code::kInternal:
      return "internal error";
  }
  return "unknown";
}

void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  std::fprintf(stderr, "hora: %s:%d: %s does not hold%s%s. This is a bug in Hora.\n", file, line,
               condition, detail.empty() ? "" : ": ", detail.c_str());
  std::abort();
}

}  // namespace hora
