#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hora {

/// Numbers with units, as people write them in settings and flags. Nothing here accepts trailing
/// text, signs, infinities or an empty string: the result is then empty.

/// "123". Only digits.
std::optional<uint64_t> parse_integer(std::string_view text);

/// "8388608", "8 MiB", "64k", "1.5G": units are powers of 1024 in any spelling (k, K, KB, KiB).
/// Fractions of a byte are refused.
std::optional<uint64_t> parse_bytes(std::string_view text);

/// "10", "10s", "500 ms", "50us", "2 min", "1 h", in seconds.
std::optional<double> parse_seconds(std::string_view text);

/// "1Gbit", "2.5 gbit", "100mbit", "500kbit", in bytes per second. Units are powers of 1000.
std::optional<double> parse_rate(std::string_view text);

/// A network link: its rate, and its one-way delay if there is one: "1Gbit", "100mbit,20ms".
struct LinkQuantity {
  double bytes_per_second = 0, seconds = 0;
};
std::optional<LinkQuantity> parse_link(std::string_view text);

/// In the largest unit that is exact: "8 MiB", "1000 B" is "1000". Parses back to the same number.
std::string format_bytes(uint64_t bytes);

/// "10 s", "500 ms", "50 us", "0". Parses back to the same number.
std::string format_seconds(double seconds);

/// The candidate that `word` was probably meant to be: fewest edits (insert, delete, replace, swap
/// of neighbors), at most a third of the word's length; empty if there is none that close.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace hora
