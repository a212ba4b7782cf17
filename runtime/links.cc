#include "runtime/links.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "runtime/quantity.h"

namespace hora {
namespace {

constexpr int kMostRounds = 3;

/// As many positive numbers as there are, with spaces between; fewer if something else comes.
std::vector<double> numbers_in(std::string_view text) {
  std::vector<double> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    double number = 0;
    const auto [rest, error] = std::from_chars(at, end, number);
    if (error != std::errc() || !std::isfinite(number) || number < 0) break;
    numbers.push_back(number);
    if (rest == end || *rest != ' ') break;
    at = rest + 1;
  }
  return numbers;
}

}  // namespace

std::optional<LinkSetting> parse_links(std::string_view text) {
  if (text == "measure") return LinkSetting{true, kUsualAcross};
  if (text == "none") return LinkSetting{};
  const auto link = parse_link(text);
  if (!link) return {};
  return LinkSetting{
      false, {kUsualAcross.latency + link->seconds, kUsualAcross.overhead, link->bytes_per_second}};
}

int rounds_of(int hosts) {
  return std::min(kMostRounds, hosts - 1);
}

// The circle method: all but the last of an even number stand on a circle, and in round r those
// pair up whose numbers add up to r; whom that would pair with itself plays the last.
std::optional<int> partner_of(int host, int round, int hosts) {
  const int circle = hosts + hosts % 2 - 1;
  int partner = (round - host % circle + circle) % circle;
  if (host == circle) {  // r = 2x modulo an odd number has one solution
    partner = round % 2 == 0 ? round / 2 : (round + circle) / 2;
    partner %= circle;
  } else if (partner == host) {
    partner = circle;
  }
  if (partner >= hosts) return {};
  return partner;
}

std::string text_of(std::span<const tcp::LinkSample> samples) {
  std::string text;
  for (const tcp::LinkSample& sample : samples)
    text += fmt::format("{} {}\n", sample.delay, sample.rate);
  return text;
}

std::vector<tcp::LinkSample> parse_samples(std::string_view text) {
  std::vector<tcp::LinkSample> samples;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const auto numbers = numbers_in(text.substr(0, end));
    if (numbers.size() == 2) samples.push_back({numbers[0], numbers[1]});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return samples;
}

LinkCost slowest(std::span<const tcp::LinkSample> samples, const LinkCost& given) {
  LinkCost link = given;
  double delay = 0, rate = 0;
  for (const tcp::LinkSample& sample : samples) {
    delay = std::max(delay, sample.delay);
    if (sample.rate > 0) rate = rate == 0 ? sample.rate : std::min(rate, sample.rate);
  }
  link.latency += delay;
  if (rate > 0) link.bandwidth = rate;
  return link;
}

std::string text_of(const LinkCost& link) {
  return fmt::format("{} {} {}", link.latency, link.overhead, link.bandwidth);
}

std::optional<LinkCost> parse_cost(std::string_view text) {
  const auto numbers = numbers_in(text);
  if (numbers.size() != 3 || numbers[2] == 0) return {};
  return LinkCost{numbers[0], numbers[1], numbers[2]};
}

std::string describe(const LinkCost& link) {
  return fmt::format("{}, {} one way", rate_text(link.bandwidth), time_text(link.latency));
}

}  // namespace hora
