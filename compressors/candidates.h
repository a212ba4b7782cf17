#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compressors/codec.h"
#include "compressors/walks.h"

namespace hora {

// How a selection finds the largest of many magnitudes. A sample says roughly where the last of
// them lies, one walk collects what is above a value a little lower, and among these few the exact
// threshold is found. If the sample was misleading, a histogram takes its place.

/// Room for what a walk collects, in the workspace.
struct Candidates {
  uint32_t* found;
  float* numbers;
  size_t room;

  Candidates(Workspace& workspace, size_t room);
  Scanned scan(const Source& source, size_t count, uint32_t floor, uint32_t signed_floor,
               bool settle) const {
    return host_walks().scan({source, count, {floor, signed_floor}, found, numbers, room, settle});
  }
};

/// Room for the candidates if samples of the numbers say where `most` are.
size_t usual_room(size_t count, size_t most);

/// Numbers at equal distances, in the workspace; none if there are too few to learn from.
std::span<float> take_sample(Workspace& workspace, const Source& source, size_t count);

/// A magnitude that probably at least this share of all reach, but not four times as many; 0 if the
/// sample is too small to say. Changes their order.
uint32_t sampled_floor(std::span<uint32_t> sample, double share);

/// Magnitudes by their leading bits.
class Histogram {
 public:
  /// The lowest magnitude of the bin that holds the n-th largest; how many reach it, and how many
  /// of these are in that bin.
  struct Cut {
    uint32_t floor = 0;
    size_t reached = 0, inside = 0;
  };
  Cut cut(size_t nth) const;
  /// `i` is anything that differs between neighbours.
  void add(size_t i, uint32_t magnitude) { ++bins_[i % 2][magnitude >> kShift]; }
  static bool together(uint32_t a, uint32_t b) { return a >> kShift == b >> kShift; }

 private:
  static constexpr uint32_t kShift = 19, kBins = 1u << (31 - kShift);
  // Two tables, because neighbours often fall into one bin and would wait for each other's store.
  uint32_t bins_[2][kBins] = {};
};

/// The last of the n largest magnitudes. Ties go to the lower offsets, so who asks for one after
/// the other, ascending, takes n.
struct Last {
  uint32_t magnitude = ~0u;
  size_t equal = 0;  ///< so many that equal it are among the n

  bool takes(uint32_t other) {
    if (other != magnitude) return other > magnitude;
    if (equal == 0) return false;
    --equal;
    return true;
  }
};

/// Of the n largest; n is at least 1, and not more than there are. Overwrites the magnitudes.
Last last_of(std::span<uint32_t> magnitudes, size_t n);

}  // namespace hora
