#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ops/cost_model.h"
#include "ops/tcp/probe.h"

namespace hora {

/// The links between hosts: what HORA_LINKS says of them, who measures which of them when, and what
/// all agree on. Pure.
///
/// One rank of each host measures, with one other host in each round: a tournament (the circle
/// method), so that no host is in two pairs at once and, in as many rounds as there are, none
/// measures with the same host twice. A few rounds do, since a slow host shows in each of its.

/// "measure", "none" (a network within a building), or a link such as "1Gbit,20ms": its numbers.
struct LinkSetting {
  bool measure = false;
  LinkCost given = kUsualAcross;
};
std::optional<LinkSetting> parse_links(std::string_view text);

/// How many rounds `hosts` hosts take.
int rounds_of(int hosts);

/// With whom `host` measures in this round; none if it pauses.
std::optional<int> partner_of(int host, int round, int hosts);

/// Of one host, for the store: a line for each of its samples.
std::string text_of(std::span<const tcp::LinkSample> samples);
/// What is no sample is left out.
std::vector<tcp::LinkSample> parse_samples(std::string_view text);

/// The longest delay and the lowest rate; what no sample has is taken from `given`.
LinkCost slowest(std::span<const tcp::LinkSample> samples, const LinkCost& given);

/// Exact, so that all ranks have equal numbers.
std::string text_of(const LinkCost& link);
std::optional<LinkCost> parse_cost(std::string_view text);

/// "0.98 Gbit/s, 20.1 ms one way", for people.
std::string describe(const LinkCost& link);

}  // namespace hora
