#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "hora/request.h"
#include "ops/backend.h"
#include "runtime/byte_codec.h"
#include "runtime/vocabulary.h"

/// Small operations that travel inside of control frames: their values go up with the announcements
/// and come back with the decision, so between hosts they cost one trip instead of two.
///
/// values = *(rank:v bytes:s), in any order; every member of the set contributes once, with a
/// broadcast all but the root no bytes.
namespace hora {

/// Is this operation carried? A function of what all members agree on, so all say alike.
bool is_carried(const Signature& signature, const Options& options, int world);

void append_values(std::string& values, Rank rank, std::string_view bytes);

/// Calls visit(rank, bytes) for each contribution. False if the values are malformed.
template <class Visit>
bool for_each_value(std::string_view values, Visit visit) {
  Reader r(values);
  while (!r.done()) {
    const uint64_t rank = r.upto(INT32_MAX);
    const std::string_view bytes = r.s(values.size());
    if (r.ok()) visit(static_cast<Rank>(rank), bytes);
  }
  return r.ok();
}

/// Are these contributions of ranks of `from` (ascending), each as long as the operation wants?
bool are_values(std::string_view values, const Signature& signature, const std::vector<Rank>& from);

/// What `rank` contributes to a request: its input tensors one after the other, as bytes.
void pack(const Request& request, Rank rank, std::string& bytes);

/// What members contributed becomes the result of each. Keeps its memory between uses.
///
/// Threads: one at a time.
class CarriedResult {
 public:
  /// Writes the outputs of `request`. A member of `ranks` (ascending) that contributed nothing has
  /// joined: zeros. kCorrupt if the values are not what the operation wants.
  Status write(const Request& request, const Signature& signature, const std::vector<Rank>& ranks,
               std::string_view values);

 private:
  std::vector<std::byte> memory_;
  std::vector<const std::byte*> inputs_;
};

}  // namespace hora
