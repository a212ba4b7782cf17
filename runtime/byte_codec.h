#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace hora {

static_assert(std::endian::native == std::endian::little, "wire formats are copied as they lie");

/// Appends little-endian numbers and strings to a buffer that it borrows.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  void u8(uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void u32(uint32_t value) { fixed(value); }
  void f64(double value) { fixed(value); }
  /// LEB128.
  void v(uint64_t value) {
    for (; value >= 0x80; value >>= 7) u8(static_cast<uint8_t>(value | 0x80));
    u8(static_cast<uint8_t>(value));
  }
  /// Zigzag, then LEB128.
  void z(int64_t value) {
    v((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
  }
  /// Length, then bytes.
  void s(std::string_view value) {
    v(value.size());
    out_.append(value);
  }

 private:
  template <class T>
  void fixed(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }
  std::string& out_;
};

/// Reads what Writer wrote. After the first thing that is wrong or missing, ok() is false and all
/// reads give zeros, so a decoder checks once at its end and loops only while ok().
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool ok() const { return ok_; }
  bool done() const { return rest_.empty() || !ok_; }
  std::string_view rest() const { return rest_; }

  uint8_t u8() { return fixed<uint8_t>(); }
  uint32_t u32() { return fixed<uint32_t>(); }
  double f64() { return fixed<double>(); }
  uint64_t v() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = u8();
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (!(byte & 0x80)) return value;
    }
    return fail();
  }
  int64_t z() {
    const uint64_t value = v();
    return static_cast<int64_t>((value >> 1) ^ (0 - (value & 1)));
  }
  /// A number, count or length that must not exceed `most`.
  uint64_t upto(uint64_t most) {
    const uint64_t value = v();
    return value <= most ? value : fail();
  }
  int64_t within(int64_t least, int64_t most) {
    const int64_t value = z();
    if (value >= least && value <= most) return value;
    fail();
    return least;
  }
  std::string_view s(size_t most) { return take(upto(most)); }
  std::string_view take(size_t bytes) {
    if (!need(bytes)) return {};
    const std::string_view front = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return front;
  }
  uint64_t fail() {
    ok_ = false;
    return 0;
  }

 private:
  bool need(size_t bytes) { return ok_ = ok_ && rest_.size() >= bytes; }
  template <class T>
  T fixed() {
    T value{};
    if (need(sizeof(T))) {
      std::memcpy(&value, rest_.data(), sizeof(T));
      rest_.remove_prefix(sizeof(T));
    }
    return value;
  }
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace hora
