#include "ops/adasum.h"

#include <algorithm>
#include <cstring>

#include "compressors/convert.h"
#include "ops/aggregate.h"

// Every tensor is cut into one share for each member, and an alltoall brings all members' values of
// a share to its owner. So each owner can climb the whole tree on its shares, in memory; only the
// inner products of a level, three numbers for each pair and tensor, must be added up over the
// owners. An allgather of the shares ends it. That is the traffic of an allreduce and one tiny one
// for each level, where recursive halving would need a power of two.

namespace hora {
namespace {

constexpr size_t kBetweenPauses = size_t{1} << 17;  // elements; 512 KiB of float32
constexpr size_t kLanes = 16;                       // of an inner product, joined in a fixed order

enum ScratchSlot : size_t { kTables = kAggregateScratch, kSent, kReceived, kValues, kProducts };

/// Inner products of x and y with themselves and with each other.
struct Products {
  double xx = 0, yy = 0, xy = 0;
};
constexpr size_t kNumbers = sizeof(Products) / sizeof(double);

struct Factors {
  double x = 1, y = 1;
};

Factors factors_of(const Products& products) {
  // Zeros have no direction: what is beside them stays as it is.
  return {products.xx == 0 ? 1 : 1 - products.xy / (2 * products.xx),
          products.yy == 0 ? 1 : 1 - products.xy / (2 * products.yy)};
}

template <class T>
Products multiply(const T* x, const T* y, size_t count) {
  double xx[kLanes] = {}, yy[kLanes] = {}, xy[kLanes] = {};
  const auto add = [&](size_t at, size_t lanes) {
    for (size_t i = 0; i < lanes; ++i) {
      const double a = x[at + i], b = y[at + i];
      xx[i] += a * a;
      yy[i] += b * b;
      xy[i] += a * b;
    }
  };
  size_t at = 0;
  for (; at + kLanes <= count; at += kLanes) add(at, kLanes);
  add(at, count - at);
  Products sum;
  for (size_t i = 0; i < kLanes; ++i) {
    sum.xx += xx[i];
    sum.yy += yy[i];
    sum.xy += xy[i];
  }
  return sum;
}

template <class T>
void scale(T* values, size_t count, double factor) {
  if (factor == 1) return;
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(values[i] * factor);
}

struct Job {
  Lane& lane;
  Communicator& over;
  const uint64_t sequence;
  const std::span<const Segment> tensors;
  const Reduction& terms;

  std::span<size_t> sizes = {};     // bytes that each member owns, of all tensors
  std::span<size_t> received = {};  // bytes that this rank gets from each member
  size_t owned = 0;                 // elements of all tensors that this rank owns
  uint64_t exchange = 0;
  size_t since_pause = 0;

  size_t members() const { return static_cast<size_t>(over.size()); }
  size_t me() const { return static_cast<size_t>(over.rank()); }
  size_t width() const { return bytes_of(terms.dtype); }
  uint64_t next_tag() { return Tag::of(sequence, exchange++); }
  std::byte* scratch(size_t slot, size_t bytes) { return lane.scratch(slot, bytes).data(); }
  bool pause_is_due(size_t count) {
    since_pause += count;
    if (since_pause < kBetweenPauses) return false;
    since_pause = 0;
    return true;
  }
};

/// Where `member`'s share of `count` elements begins; that of the one after the last is the end.
size_t share_begin(size_t count, size_t members, size_t member) {
  return member * (count / members) + std::min(member, count % members);
}

size_t share_of(const Job& job, const Segment& tensor, size_t member) {
  return share_begin(tensor.count, job.members(), member + 1) -
         share_begin(tensor.count, job.members(), member);
}

void lay_out(Job& job) {
  auto* table = reinterpret_cast<size_t*>(job.scratch(kTables, 2 * job.members() * sizeof(size_t)));
  job.sizes = {table, job.members()};
  job.received = {table + job.members(), job.members()};
  for (size_t r = 0; r < job.members(); ++r) {
    job.sizes[r] = 0;
    for (const Segment& tensor : job.tensors) job.sizes[r] += share_of(job, tensor, r);
    job.sizes[r] *= job.width();
  }
  job.owned = job.sizes[job.me()] / job.width();
  std::fill(job.received.begin(), job.received.end(), job.sizes[job.me()]);
}

/// Visits all members' shares of all tensors in the order in which messages have them.
template <class Visit>
void for_each_share(const Job& job, Visit visit) {
  size_t at = 0;
  for (size_t r = 0; r < job.members(); ++r) {
    for (const Segment& tensor : job.tensors) {
      const size_t bytes = share_of(job, tensor, r) * job.width();
      const size_t begin = share_begin(tensor.count, job.members(), r) * job.width();
      if (bytes > 0) visit(tensor.data + begin, at, bytes);
      at += bytes;
    }
  }
}

/// One level of the tree on this rank's shares: member x's vector is combined with that of member
/// x + stride, for every x that is a multiple of 2 stride.
template <class T>
Ticket combine(Job& job, T* values, size_t stride) {
  const size_t pairs = (job.members() - stride + 2 * stride - 1) / (2 * stride);
  const size_t numbers = pairs * job.tensors.size();
  auto* products = reinterpret_cast<Products*>(job.scratch(kProducts, numbers * sizeof(Products)));
  for (size_t pair = 0, n = 0; pair < pairs; ++pair) {
    const T* x = values + 2 * stride * pair * job.owned;
    for (const Segment& tensor : job.tensors) {
      const size_t count = share_of(job, tensor, job.me());
      products[n++] = multiply(x, x + stride * job.owned, count);
      x += count;
      if (job.pause_is_due(count)) HORA_CO_TRY(co_await job.lane.pause());
    }
  }
  const Segment segment{reinterpret_cast<std::byte*>(products), numbers * kNumbers};
  const Reduction sum{DType::kFloat64, ReduceOp::kSum, 1, 1};
  HORA_CO_TRY(co_await job.over.allreduce(job.lane, job.next_tag(), {&segment, 1}, sum));
  for (size_t pair = 0, n = 0; pair < pairs; ++pair) {
    T* x = values + 2 * stride * pair * job.owned;
    for (const Segment& tensor : job.tensors) {
      const size_t count = share_of(job, tensor, job.me());
      const T* y = x + stride * job.owned;
      const Factors factors = factors_of(products[n++]);
      for (size_t i = 0; i < count; ++i) x[i] = static_cast<T>(factors.x * x[i] + factors.y * y[i]);
      x += count;
      if (job.pause_is_due(count)) HORA_CO_TRY(co_await job.lane.pause());
    }
  }
  co_return Status();
}

/// All members' vectors, this rank's shares of them; the first becomes the result.
template <class T>
Ticket climb(Job& job, T* values) {
  scale(values, job.members() * job.owned, job.terms.prescale);
  for (size_t stride = 1; stride < job.members(); stride *= 2)
    HORA_CO_TRY(co_await combine(job, values, stride));
  scale(values, job.owned, job.terms.postscale);
  co_return Status();
}

Ticket climb_widened(Job& job, std::byte* received) {
  const size_t all = job.members() * job.owned;
  auto* wide = reinterpret_cast<float*>(job.scratch(kValues, all * sizeof(float)));
  widen(job.terms.dtype, received, wide, all);
  HORA_CO_TRY(co_await climb(job, wide));
  narrow(job.terms.dtype, wide, received, job.owned);
  co_return Status();
}

}  // namespace

Ticket adasum(Lane& lane, Communicator& communicator, uint64_t sequence,
              std::span<const Segment> tensors, const Reduction& terms) {
  HORA_CHECK(is_float(terms.dtype), "adasum of integers");
  Job job{lane, communicator, sequence, tensors, terms};
  lay_out(job);
  size_t total = 0;
  for (const size_t bytes : job.sizes) total += bytes;
  std::byte* const sent = job.scratch(kSent, total);
  std::byte* const received = job.scratch(kReceived, job.members() * job.sizes[job.me()]);
  for_each_share(job, [&](std::byte* tensor, size_t at, size_t bytes) {
    std::memcpy(sent + at, tensor, bytes);
  });
  HORA_CO_TRY(co_await communicator.alltoall(lane, job.next_tag(), sent, job.sizes, received,
                                             job.received));
  if (terms.dtype == DType::kFloat32)
    HORA_CO_TRY(co_await climb(job, reinterpret_cast<float*>(received)));
  else if (terms.dtype == DType::kFloat64)
    HORA_CO_TRY(co_await climb(job, reinterpret_cast<double*>(received)));
  else
    HORA_CO_TRY(co_await climb_widened(job, received));
  HORA_CO_TRY(co_await communicator.allgather(lane, job.next_tag(), received, sent, job.sizes));
  for_each_share(job, [&](std::byte* tensor, size_t at, size_t bytes) {
    std::memcpy(tensor, sent + at, bytes);
  });
  co_return Status();
}

}  // namespace hora
