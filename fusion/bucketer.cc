#include "fusion/bucketer.h"

#include <cstddef>
#include <cstring>
#include <utility>

namespace hora {
namespace {

template <class T>
void append(std::string& key, const T& value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  key.append(bytes, sizeof(T));
}

// Adasum weighs whole tensors, so it is fused but never split. The pieces of a group count through
// all its tensors: its granule holds in each of them only if every tensor but the last is a
// multiple.
uint32_t granule_of(const Signature& signature) {
  if (signature.op != Op::kAllreduce || signature.reduce == ReduceOp::kAdasum) return 0;
  if (signature.granule <= 1) return signature.granule;
  for (size_t i = 0; i + 1 < signature.shapes.size(); ++i)
    if (count_of(signature.shapes[i]) % signature.granule != 0) return 0;
  return signature.granule;
}

}  // namespace

ReadyWork Bucketer::describe(ItemId id, SetId set, const Signature& signature, int16_t priority) {
  ReadyWork work;
  work.id = id, work.set = set, work.priority = priority;
  work.count = count_of(signature);
  work.bytes_each = static_cast<uint32_t>(bytes_of(signature.dtype));
  work.granule = granule_of(signature);
  if (signature.op != Op::kAllreduce) return work;
  std::string key;
  append(key, set), append(key, signature.reduce), append(key, signature.dtype);
  append(key, signature.device), append(key, signature.prescale), append(key, signature.postscale);
  key += signature.chain;
  work.kind =
      kinds_.try_emplace(std::move(key), static_cast<uint32_t>(kinds_.size()) + 1).first->second;
  return work;
}

bool Bucketer::is_express(const ReadyWork& work) const {
  return options_.lanes < 2 || work.bytes() <= options_.express_bytes;
}

uint8_t Bucketer::next_lane() {
  const auto lane = static_cast<uint8_t>(1 + turn_);
  turn_ = static_cast<uint8_t>((turn_ + 1u) % (options_.lanes - 1u));
  return lane;
}

uint64_t Bucketer::piece_of(const ReadyWork& work) const {
  if (work.granule == 0) return UINT64_MAX;
  const uint64_t most = options_.bucket_bytes / work.bytes_each;
  return std::max<uint64_t>(most / work.granule, 1) * work.granule;
}

void Bucketer::add(const ReadyWork& work) {
  const Queued queued{work, order_++, 0, is_express(work)};
  const auto at = std::upper_bound(
      queue_.begin(), queue_.end(), queued,
      [](const Queued& a, const Queued& b) { return a.work.priority > b.work.priority; });
  queue_.insert(at, queued);
}

void Bucketer::take(size_t lead, Bucket& bucket) {
  const Queued chosen = queue_[lead];
  bucket.lane = chosen.express ? 0 : next_lane();
  bucket.set = chosen.work.set;
  bucket.pieces.clear();
  const uint64_t piece = piece_of(chosen.work);
  if (chosen.work.count - chosen.first > piece) {
    bucket.pieces.push_back({chosen.work.id, chosen.first, piece, false});
    bucket.bytes = piece * chosen.work.bytes_each;
    queue_[lead].first += piece;
    return;
  }
  bucket.bytes = 0;
  size_t kept = lead;
  for (size_t i = lead; i < queue_.size(); ++i) {
    const Queued& queued = queue_[i];
    const bool fits =
        i == lead || (chosen.work.kind != 0 && queued.work.kind == chosen.work.kind &&
                      queued.express == chosen.express && bucket.pieces.size() < kMaxPieces &&
                      bucket.bytes + queued.bytes_left() <= options_.bucket_bytes);
    if (fits) {
      bucket.pieces.push_back(
          {queued.work.id, queued.first, queued.work.count - queued.first, true});
      bucket.bytes += queued.bytes_left();
    } else {
      queue_[kept++] = queued;
    }
  }
  queue_.resize(kept);
}

std::vector<std::vector<ItemId>> Bucketer::stable_buckets(std::span<const ReadyWork> order,
                                                          const BucketOptions& options) {
  struct Open {
    uint32_t kind;
    uint64_t bytes;
    std::vector<ItemId> ids;
  };
  std::vector<std::vector<ItemId>> done;
  std::vector<Open> open;
  for (const ReadyWork& work : order) {
    if (work.kind == 0 || work.bytes() > options.bucket_bytes) continue;
    auto bucket = std::find_if(open.begin(), open.end(),
                               [&](const Open& each) { return each.kind == work.kind; });
    if (bucket == open.end()) bucket = open.insert(open.end(), Open{work.kind, 0, {}});
    if (bucket->bytes + work.bytes() > options.bucket_bytes || bucket->ids.size() >= kMaxPieces) {
      done.push_back(std::exchange(bucket->ids, {}));
      bucket->bytes = 0;
    }
    bucket->ids.push_back(work.id);
    bucket->bytes += work.bytes();
  }
  for (Open& bucket : open) done.push_back(std::move(bucket.ids));
  std::erase_if(done, [](const auto& ids) { return ids.size() < 2; });
  return done;
}

}  // namespace hora
