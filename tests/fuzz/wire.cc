// The control plane's frames: whatever decodes must encode to something that decodes alike.
#include "runtime/wire.h"

#include <cstdint>
#include <string>

#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

std::string again(Up up) {
  std::string frame;
  encode_up(up, 1, SIZE_MAX, [&]() -> std::string& { return frame; });
  return frame;
}

void announcement(std::string_view body) {
  Up first, second;
  if (!decode_up(body, first).ok()) return;
  const std::string bytes = again(first);
  if (bytes.empty()) return;  // it announced nothing
  Frame frame;
  FUZZ_CHECK(decode_frame(bytes, frame).ok());
  FUZZ_CHECK(decode_up(frame.body, second).ok());
  FUZZ_CHECK(again(second) == bytes);
}

void log(std::string_view body) {
  Entry entry;
  std::string_view raw;
  while (!body.empty() && decode_entry(body, entry, raw).ok()) {
    std::string bytes, repeated;
    append_entry(bytes, entry);
    std::string_view rest = bytes;
    FUZZ_CHECK(decode_entry(rest, entry, raw).ok() && rest.empty());
    append_entry(repeated, entry);
    FUZZ_CHECK(repeated == bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view text = fuzz::text(data, bytes);
  Frame frame;
  Abort abort;
  Ahead ahead;
  if (!decode_frame(text, frame).ok()) {
    // Most inputs are no frame; their bytes are tried as bodies.
    announcement(text), log(text);
    (void)decode_abort(text, abort).ok();
    (void)decode_ahead(text, ahead).ok();
    return 0;
  }
  if (frame.type == FrameType::kUp) announcement(frame.body);
  if (frame.type == FrameType::kLog) log(frame.body);
  if (frame.type == FrameType::kAbort) (void)decode_abort(frame.body, abort).ok();
  if (frame.type == FrameType::kAhead) (void)decode_ahead(frame.body, ahead).ok();
  return 0;
}
