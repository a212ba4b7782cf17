#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/element.h"
#include "hora/status.h"
#include "hora/tensor.h"

namespace hora {

/// Everything a step knows that a gradient does not say. The same on all ranks but `rank`.
struct StepContext {
  uint64_t seed = 0;
  uint64_t step = 0;     ///< counts this tensor's exchanges: names the random numbers
  double epoch = 0;      ///< warm-up schedules read this
  float rate_ratio = 1;  ///< previous learning rate (times loss scale) over this one
  int rank = 0, size = 1;
};

/// What a tensor is, on every rank alike.
struct Extent {
  uint64_t id = 0;               ///< a hash of its name: names its random numbers
  size_t rows = 1, columns = 0;  ///< row-major; a column of the papers is a run of `columns`
  size_t count() const { return rows * columns; }
};

/// The extent of tensor `name`: the first dimension makes the rows, the others the columns.
Extent extent_of(std::string_view name, const Shape& shape);

/// The granule of a codec that looks at a whole tensor: no piece is less, up to 2^31 elements.
size_t whole_granule(const Extent& extent);

/// How a slab of state survives a change in the number of ranks.
enum class Law : uint8_t {
  kPending,     ///< owed to the model: its mean (or sum) over ranks is kept
  kOwned,       ///< element i belongs to whoever owns element i: gathered, then split again
  kReplicated,  ///< equal on all ranks
  kScratch,     ///< not state
};

struct SlabSpec {
  std::string name;
  size_t count = 0;
  Law law = Law::kPending;
  bool half = false;  ///< kept in bfloat16: half_memory.h lends it to codecs as floats
  size_t bytes() const { return count * (half ? sizeof(uint16_t) : sizeof(float)); }
};

/// One tensor's state on one rank: named float slabs, and nothing else. Saving, loading, resizing
/// and reporting need no code from an algorithm.
struct State {
  struct Slab {
    SlabSpec spec;
    std::vector<float> values;     ///< empty where `halves` are not
    std::vector<uint16_t> halves;  ///< the upper halves of floats
    float* lent = nullptr;         ///< floats of a piece from lent_first on, for one call
    uint64_t lent_first = 0;

    size_t size() const { return spec.half ? halves.size() : values.size(); }
    std::vector<float> wide() const;
    void set(std::span<const float> from);  ///< `from` has size() elements
    void add(size_t i, float value);
  };
  std::vector<Slab> slabs;
  uint64_t first = 0;  ///< the tensor element that element 0 of the slabs stands for

  float* find(std::string_view name);  ///< null if there is no such slab, or only halves
  Slab* slab(std::string_view name);   ///< null if there is no such slab
};

/// Memory that an encoder may use during one call and finds again at the next: no allocation once
/// the largest tensor has been seen. Aligned to 64.
class Workspace {
 public:
  virtual ~Workspace() = default;
  virtual std::byte* memory(size_t slot, size_t bytes) = 0;
  float* floats(size_t slot, size_t count) {
    return reinterpret_cast<float*>(memory(slot, count * sizeof(float)));
  }

  /// Slots of those that may be at work at the same time: a codec, and those around and inside it.
  enum Slot : size_t {
    kTakeBack,
    kClip,
    kMemory,
    kHalves,
    kTransform,
    kSent,
    kDecoded,
    kChosen,
    kValues,
    kCandidates,
    kMagnitudes
  };
};

/// A run of one tensor's elements. `first` is a multiple of the codec's granule.
struct Piece {
  const float* input = nullptr;
  uint64_t first = 0;
  size_t count = 0;
};

enum class Drawer : uint64_t { kOwner = 1u << 31 };  ///< below it: the rank

/// Who encodes, in which step, and where.
struct Turn {
  const StepContext& step;
  uint64_t drawer;  ///< a rank, or Drawer::kOwner for a second encoding
  Workspace& workspace;
  float input_scale = 1;  ///< multiplies the input before anything else
  DeviceKind device = DeviceKind::kHost;
  void* stream = nullptr;
  float mean = 1;     ///< for finish(): times it an outcome is the mean over ranks
  bool held = false;  ///< what to encode is in the slab "residual" already; there is no input
};

/// What a codec draws random numbers for: nothing, what all ranks draw alike, or its own rounding.
enum class Draws : uint8_t { kNone, kShared, kPrivate };

/// Declared by a codec, tested by the conformance suite, and what the choice of aggregation rests
/// on.
struct Traits {
  bool linear = false;        ///< rounds: payloads may be added, as wire() elements
  bool unbiased = false;      ///< E[decode(encode(x))] = x
  bool contractive = false;   ///< |x - decode(encode(x))|^2 <= (1 - delta) |x|^2, delta > 0
  bool exact_values = false;  ///< what is sent is sent exactly: p == decoded + e' to the bit
  bool sparse = false;        ///< selects over a whole piece, decodes few: gather, do not recode
  bool conserves = false;     ///< input + what was owed = decoded + what is owed
  bool votes = false;         ///< says one of two values for each element: vote() is there
  bool varies = false;        ///< a payload may be shorter than payload_bytes(): see used_bytes()
  Draws draws = Draws::kNone;
};

/// Gradient to payload and back, for one tensor. Immutable; everything that changes is in State.
///
/// A payload's size depends on `count` alone, and a codec that selects writes how much it used
/// inside, so that no size needs to be sent; unless it `varies`, and says itself where it ends. A
/// NaN or an Inf poisons its block: it decodes to NaN, and the block's residual stays as it was.
///
/// Threads: any; a State and a Workspace are used by one at a time.
class Codec {
 public:
  explicit Codec(const Extent& extent) : extent_(extent) {}
  virtual ~Codec() = default;
  const Extent& extent() const { return extent_; }

  virtual Traits traits() const = 0;
  virtual size_t granule() const = 0;                    ///< pieces begin at multiples of this
  virtual size_t payload_bytes(size_t count) const = 0;  ///< if it varies, the most there can be
  virtual std::vector<SlabSpec> slabs(size_t count) const = 0;

  /// Writes payload_bytes(piece.count) bytes, aligned to 4, and settles the memory. If it varies,
  /// only used_bytes() of them mean something, and travel.
  virtual void encode(const Turn& turn, const Piece& piece, State& state,
                      std::byte* payload) const = 0;

  /// Where the payload for `count` elements that `payload` begins with ends, never beyond its end.
  /// Anybody's bytes may stand there: of those that encode() cannot have written decode_add() is
  /// the judge. Cheap beside it.
  virtual size_t used_bytes(std::span<const std::byte> payload, size_t /*count*/) const {
    return payload.size();
  }

  /// sum[i] += scale * decoded[i]. `payload` has used_bytes(). Errors: kCorrupt for a payload that
  /// encode() cannot have written, of whatever length; then nothing was added.
  virtual Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t first,
                            std::span<float> sum, float scale) const = 0;

  /// Writes the payload that says of each element what most of `voters` payloads say, which lie
  /// `stride` bytes apart; a tie is the larger value. Errors: kCorrupt, as in decode_add(). Where
  /// traits().votes.
  virtual Status vote(const std::byte* payloads, size_t stride, size_t voters, size_t count,
                      std::byte* winner) const;

  /// Puts what `payload` (this state's own, of the last encode of `piece`) says back into the
  /// memory: all of it, or only where `result` is not finite. For exchanges that failed, and for
  /// blocks that somebody poisoned. The default adds it to the slab "residual".
  virtual void take_back(const Turn& turn, const Piece& piece, State& state,
                         std::span<const std::byte> payload, const float* result = nullptr) const;

  /// The elements of the piece that `payload` speaks of, ascending; empty when it speaks of all.
  /// In the workspace; good until it is used again.
  virtual std::span<const uint32_t> sent(const Turn&, std::span<const std::byte> /*payload*/,
                                         size_t /*count*/) const {
    return {};
  }

  /// What a decoded sum says went wrong. encode() has no error to return, since ranks would part
  /// ways: a codec that runs other people's code writes its failure into the payload, decode_add()
  /// and a second encoding pass it on, and here it becomes an error, the same on all ranks.
  virtual Status judge(std::span<const float> /*sum*/) const { return {}; }

  /// The most elements that sent() gives for `count`; 0: it gives none, payloads speak of all.
  virtual size_t most_sent(size_t /*count*/) const { return 0; }

  /// Linear codecs only. Their exchange is `rounds` allreduces; next() turns the outcome of one
  /// round into the payload of the following one; finish() adds `scale` times the decoded outcome
  /// of the last to `result` (zeros) and settles the memory: until then all that was to be sent
  /// is in it, so that an exchange that fails leaves everything owed. Outcomes are sums, or means
  /// where means are asked for and the elements are no integers; `scale` makes up for the rest.
  virtual int rounds() const { return 1; }
  virtual DType wire(int /*round*/) const { return DType::kUInt8; }
  virtual bool takes_largest(int /*round*/) const { return false; }  ///< the maximum, not the sum
  virtual size_t round_bytes(int /*round*/, size_t count, int /*ranks*/) const {
    return payload_bytes(count);
  }
  virtual void next(const Turn&, const Piece&, State&, const std::byte* /*outcome*/,
                    std::byte* /*payload*/) const {}
  virtual Status finish(const Turn& turn, const Piece& piece, State& state,
                        std::span<const std::byte> outcome, float* result, float scale) const;

 private:
  const Extent extent_;
};

/// Pieces that begin at multiples of this suit both codecs of a tensor; `down` may be null.
size_t granule_of(const Codec& up, const Codec* down);

/// Zeros for the slabs of `count` elements from `first` on.
State make_state(const Codec& codec, uint64_t first, size_t count);

/// Adds to what is owed for an element of the tensor; nothing where there is no memory.
void owe(State& state, uint64_t element, float value);

/// The slab's element that stands for the piece's first; null if there is no such slab, or only
/// halves that are not lent.
float* slab_at(State& state, std::string_view slab, const Piece& piece);

}  // namespace hora
