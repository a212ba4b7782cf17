#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

/// What fuzz targets share. A target is a file of this folder with LLVMFuzzerTestOneInput(); with
/// clang and -DHORA_FUZZ=ON each is a libFuzzer program, and always all are in fuzz_test, which
/// replays the corpus and mutates it.
///
/// A check that fails ends the process, as a crash does, so that a fuzzer keeps the input.
#define FUZZ_CHECK(condition)                                                            \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

namespace fuzz {

inline std::string_view text(const uint8_t* data, size_t bytes) {
  return {reinterpret_cast<const char*>(data), bytes};
}

/// Takes numbers and pieces off the front of an input; zeros and nothing when it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t bytes) : rest_(text(data, bytes)) {}
  bool empty() const { return rest_.empty(); }
  uint8_t byte() {
    const std::string_view one = piece(1);
    return one.empty() ? 0 : static_cast<uint8_t>(one[0]);
  }
  /// At most `most` bytes, as many as the next two say.
  std::string_view piece_of(size_t most) {
    const size_t low = byte();
    return piece((low | static_cast<size_t>(byte()) << 8) % (most + 1));
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view piece(size_t bytes) {
    const std::string_view front = rest_.substr(0, bytes);
    rest_.remove_prefix(front.size());
    return front;
  }
  std::string_view rest_;
};

}  // namespace fuzz
