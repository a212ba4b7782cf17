#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace hora {

/// While it lives, this thread computes floats as IEEE 754 says: rounds to nearest and keeps
/// denormals, whatever the caller's own thread has set (torch.set_flush_denormal). Equal bits need
/// it.
class FloatMode {
 public:
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
#if defined(__x86_64__)
  FloatMode() : before_(_mm_getcsr()) {
    if ((before_ & kModes) != kStandard) _mm_setcsr(kStandard);
  }
  ~FloatMode() {
    if ((before_ & kModes) != kStandard) _mm_setcsr(before_);
  }

 private:
  static constexpr unsigned kModes = 0xFFC0;     ///< all but the flags that operations raise
  static constexpr unsigned kStandard = 0x1F80;  ///< all exceptions masked, nothing flushed
  const unsigned before_;
#else
  FloatMode() = default;
  ~FloatMode() {}
#endif
};

}  // namespace hora
