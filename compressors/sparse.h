#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "compressors/stage.h"

namespace hora {

/// Which elements of a piece travel. All that a selection stage has to say; immutable.
class Selector {
 public:
  virtual ~Selector() = default;

  /// The most elements that are ever chosen of `count`, at least 1 and at most `count`.
  virtual size_t most(size_t count) const = 0;

  /// Writes the chosen ones' offsets, ascending, to `chosen`, which has room for most(count), and
  /// says how many. kPoisoned when a NaN or an Inf is among the numbers. It may write the numbers
  /// to the residual, as settle() does.
  virtual size_t choose(Workspace& workspace, Source& source, size_t count,
                        uint32_t* chosen) const = 0;
  static constexpr size_t kPoisoned = ~size_t{0};

  /// True: how many are chosen depends on the numbers so much that a payload has no room for more
  /// than it needs, and its size varies.
  virtual bool varies() const { return false; }

  /// Pieces begin at multiples of it, counted in elements of the tensor.
  virtual size_t granule() const { return 65536; }

  /// Whether sending what was chosen always takes something off: |x - sent|^2 <= (1 - d) |x|^2.
  virtual bool contractive() const = 0;
};

/// A codec that sends the elements that `selector` chooses, raw or through the chain's quantizer,
/// with the chain's index code.
///
///   payload = u32 used, indices (index_code.h), values[used] (f32, or the quantizer's payload)
///   used    = how many, or ~0: the piece held a NaN or an Inf and decodes to NaN everywhere
///
/// What the largest choice does not fill is zeros; where the selector or the quantizer varies,
/// nothing is left over.
std::unique_ptr<Codec> make_sparse(std::unique_ptr<Selector> selector, Binding& binding);

}  // namespace hora
