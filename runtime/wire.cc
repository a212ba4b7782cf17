// Little endian. v = LEB128 unsigned, z = zigzag LEB128, s = length v, then bytes.
//
//   frame     = length:u32 type:u8 flags:u8 zero:u16 epoch:u32 body        ; length counts the body
//   type      = 1 up | 2 log | 3 abort | 4 ping | 11 ahead                 ; 5 to 10 are reserved
//   up        = generation:v applied:v *section
//   section   = %1 ids | %2 ids | %3 bitmap | %4 bitmap                    ; odd: full, even:
//   partial
//             | %5 declare | %6 set:v last:v | %7 rank:v                   ; quiet, leaving
//             | %8 set:v name:s | %9 query:v count:v ranks details         ; stall, missing
//             | %10 id:v flags:u8 values:s                                 ; carried
//   ids       = n:v first:v *(gap-1):v                                     ; strictly increasing
//   bitmap    = first:v n:v n*u8                                           ; bit i of byte j:
//   first+8j+i declare   = set:v name:s flags:u8 priority:z n:v *(rank:v count:v signature)   ; bit
//   0: partial signature = op:u8 reduce:u8 dtype:u8 device:u8 root:z prescale:f64 postscale:f64
//   domain:v
//               chain:s granule:v parts:v *(dims:v *dim:z)
//   ranks     = n:v *rank:v
//   details   = n:v *(rank:v text:s)
//   log       = *entry
//   entry     = bytes:v kind:u8 seq:v set:v id:v lane:u8 number:v flag:u8 payload
//   payload   = run: n:v *slice values:s | bucket: n:v *slice
//             | otherwise: name:s priority:z ranks code:u8 text:s [define: signature] [report:
//             details]
//   slice     = id-delta:z [run: first:v (count<<1|last):v]
//   abort     = culprit:v cause:s
//   ahead     = generation:v id:v values:s
//   values    = *(rank:v bytes:s)
#include "runtime/wire.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "runtime/byte_codec.h"

namespace hora {
namespace {

using Kind = Entry::Kind;
constexpr size_t kHeaderBytes = 12;

Status corrupt(std::string what) {
  return {Code::kCorrupt, std::move(what)};
}

void put(Writer& w, const Signature& signature) {
  w.u8(static_cast<uint8_t>(signature.op)), w.u8(static_cast<uint8_t>(signature.reduce));
  w.u8(static_cast<uint8_t>(signature.dtype)), w.u8(static_cast<uint8_t>(signature.device));
  w.z(signature.root), w.f64(signature.prescale), w.f64(signature.postscale);
  w.v(signature.domain), w.s(signature.chain), w.v(signature.granule);
  w.v(signature.shapes.size());
  for (const Shape& shape : signature.shapes) {
    w.v(shape.size());
    for (const int64_t dim : shape) w.z(dim);
  }
}

template <class Enum>
Enum get_enum(Reader& r, Enum last) {
  const uint8_t value = r.u8();
  if (value > static_cast<uint8_t>(last)) r.fail();
  return r.ok() ? static_cast<Enum>(value) : Enum{};
}

void get_shapes(Reader& r, Signature& signature) {
  const size_t most = signature.op == Op::kAddSet ? Limits::kMembers : Limits::kDims;
  uint64_t total = 0;
  for (size_t parts = r.upto(Limits::kParts); parts > 0 && r.ok(); --parts) {
    Shape& shape = signature.shapes.emplace_back();
    uint64_t count = 1;
    for (size_t dims = r.upto(most); dims > 0 && r.ok(); --dims) {
      shape.push_back(r.within(0, Limits::kElements));
      if (signature.op == Op::kAddSet) continue;
      const auto dim = static_cast<uint64_t>(shape.back());
      if (dim > 0 && count > static_cast<uint64_t>(Limits::kElements) / dim) r.fail();
      count *= dim;
    }
    total += signature.op == Op::kAddSet ? 0 : count;
    if (total > static_cast<uint64_t>(Limits::kElements)) r.fail();
  }
}

void get(Reader& r, Signature& signature) {
  signature.op = get_enum(r, Op::kRemoveSet);
  signature.reduce = get_enum(r, ReduceOp::kAdasum);
  signature.dtype = get_enum(r, DType::kBool);
  signature.device = get_enum(r, DeviceKind::kCuda);
  signature.root = static_cast<int32_t>(r.within(INT32_MIN, INT32_MAX));
  signature.prescale = r.f64(), signature.postscale = r.f64();
  signature.domain = static_cast<uint16_t>(r.upto(UINT16_MAX));
  signature.chain = r.s(Limits::kChainBytes);
  signature.granule = static_cast<uint32_t>(r.upto(UINT32_MAX));
  signature.shapes.clear();
  get_shapes(r, signature);
}

// The shorter of a list, which costs at least a byte for each id, and a bitmap.
void put_ids(Writer& w, const ItemId* ids, size_t count, uint8_t tag) {
  const uint32_t first = ids[0], bitmap_bytes = (ids[count - 1] - first) / 8 + 1;
  if (bitmap_bytes < count) {
    w.u8(tag + 2), w.v(first), w.v(bitmap_bytes);
    for (uint32_t byte = 0, i = 0; byte < bitmap_bytes; ++byte) {
      uint8_t bits = 0;
      for (; i < count && (ids[i] - first) / 8 == byte; ++i)
        bits |= static_cast<uint8_t>(1u << (ids[i] - first) % 8);
      w.u8(bits);
    }
    return;
  }
  w.u8(tag), w.v(count), w.v(first);
  for (size_t i = 1; i < count; ++i) w.v(ids[i] - ids[i - 1] - 1);
}

void get_ids(Reader& r, std::vector<ItemId>& ids) {
  uint64_t id = 0;
  const size_t count = r.upto(Limits::kIdsPerSection);
  for (size_t i = 0; i < count && r.ok(); ++i) {
    id = i == 0 ? r.upto(UINT32_MAX) : id + 1 + r.upto(UINT32_MAX);
    if (id > UINT32_MAX) r.fail();
    ids.push_back(static_cast<ItemId>(id));
  }
}

void get_bitmap(Reader& r, std::vector<ItemId>& ids) {
  const uint64_t first = r.upto(UINT32_MAX - Limits::kIdsPerSection);
  const std::string_view bits = r.s(Limits::kIdsPerSection / 8);
  for (size_t j = 0; j < bits.size(); ++j)
    for (uint32_t byte = static_cast<uint8_t>(bits[j]); byte != 0; byte &= byte - 1)
      ids.push_back(static_cast<ItemId>(first + 8 * j) +
                    static_cast<ItemId>(std::countr_zero(byte)));
}

void put_rank(Writer& w, Rank rank) {
  w.v(static_cast<uint64_t>(rank));
}
Rank get_rank(Reader& r) {
  return static_cast<Rank>(r.upto(INT32_MAX));
}
uint32_t get_u32(Reader& r) {
  return static_cast<uint32_t>(r.upto(UINT32_MAX));
}

void put(Writer& w, const std::vector<Rank>& ranks) {
  w.v(ranks.size());
  for (const Rank rank : ranks) put_rank(w, rank);
}

void get(Reader& r, std::vector<Rank>& ranks, size_t most) {
  for (size_t n = r.upto(most); n > 0 && r.ok(); --n) ranks.push_back(get_rank(r));
}

void put(Writer& w, const std::vector<Detail>& details) {
  w.v(details.size());
  for (const Detail& detail : details) put_rank(w, detail.rank), w.s(detail.text);
}

void get(Reader& r, std::vector<Detail>& details) {
  for (size_t n = r.upto(Limits::kNamedRanks); n > 0 && r.ok(); --n) {
    Detail& detail = details.emplace_back();
    detail.rank = get_rank(r), detail.text = r.s(Limits::kTextBytes);
  }
}

void put(Writer& w, const Declare& declare) {
  w.v(declare.set), w.s(declare.name), w.u8(declare.partial), w.z(declare.priority);
  w.v(declare.variants.size());
  for (const Variant& variant : declare.variants)
    put_rank(w, variant.rank), w.v(variant.count), put(w, variant.signature);
  w.s(declare.values);
}

void get(Reader& r, Declare& declare) {
  declare.set = get_u32(r), declare.name = r.s(Limits::kNameBytes);
  declare.partial = r.u8() & 1;
  declare.priority = static_cast<int16_t>(r.within(INT16_MIN, INT16_MAX));
  const size_t variants = r.upto(Limits::kVariants);
  if (variants == 0) r.fail();
  for (size_t n = variants; n > 0 && r.ok(); --n) {
    Variant& variant = declare.variants.emplace_back();
    variant.rank = get_rank(r);
    variant.count = static_cast<uint32_t>(r.upto(INT32_MAX));
    get(r, variant.signature);
  }
  declare.values = r.s(Limits::kValuesBytes);
}

void get(Reader& r, Missing& missing) {
  missing.query = get_u32(r);
  missing.count = static_cast<uint32_t>(r.upto(INT32_MAX));
  get(r, missing.ranks, Limits::kNamedRanks);
  get(r, missing.details);
}

bool get_section(Reader& r, uint8_t tag, Up& up) {
  switch (tag) {
    case 1:
      get_ids(r, up.full);
      return true;
    case 2:
      get_ids(r, up.partial);
      return true;
    case 3:
      get_bitmap(r, up.full);
      return true;
    case 4:
      get_bitmap(r, up.partial);
      return true;
    case 5:
      get(r, up.declares.emplace_back());
      return true;
    case 6: {
      Quiet& quiet = up.quiet.emplace_back();
      quiet.set = get_u32(r), quiet.last = get_rank(r);
      return true;
    }
    case 7:
      up.leaving.push_back(get_rank(r));
      return true;
    case 8: {
      StallQuery& stall = up.stalls.emplace_back();
      stall.set = get_u32(r), stall.name = r.s(Limits::kNameBytes);
      return true;
    }
    case 9:
      get(r, up.missing.emplace_back());
      return true;
    case 10: {
      Carried& carried = up.carried.next();
      carried.id = get_u32(r), carried.partial = r.u8() & 1;
      carried.values = r.s(Limits::kValuesBytes);
      return true;
    }
  }
  return false;
}

void put_slices(Writer& w, const Entry& entry) {
  w.v(entry.slices.size());
  int64_t previous = 0;
  for (const Slice& slice : entry.slices) {
    w.z(static_cast<int64_t>(slice.id) - previous);
    previous = slice.id;
    if (entry.kind == Kind::kRun) w.v(slice.first), w.v(slice.count << 1 | uint64_t{slice.last});
  }
}

void get_slices(Reader& r, Entry& entry) {
  int64_t id = 0;
  for (size_t n = r.upto(Limits::kSlices); n > 0 && r.ok(); --n) {
    Slice& slice = entry.slices.emplace_back();
    id += r.within(-int64_t{UINT32_MAX}, int64_t{UINT32_MAX});
    if (id < 0 || id > int64_t{UINT32_MAX}) r.fail();
    if (!r.ok()) return;
    slice.id = static_cast<ItemId>(id);
    if (entry.kind != Kind::kRun) continue;
    slice.first = r.upto(static_cast<uint64_t>(Limits::kElements));
    slice.count = r.upto(static_cast<uint64_t>(Limits::kElements) << 1 | 1);
    slice.last = slice.count & 1, slice.count >>= 1;
  }
}

}  // namespace

void Entry::reset(Kind of) {
  kind = of;
  seq = 0, set = 0, id = 0, lane = 0, number = 0, drop_names = false, priority = 0;
  slices.clear(), values.clear(), name.clear(), ranks.clear(), details.clear();
  if (!status.ok()) status = {};
}

void begin_frame(std::string& out, FrameType type, uint32_t epoch) {
  out.clear();
  Writer w(out);
  w.u32(0), w.u8(static_cast<uint8_t>(type)), w.u8(0), w.u8(0), w.u8(0), w.u32(epoch);
}

void end_frame(std::string& out) {
  const auto length = static_cast<uint32_t>(out.size() - kHeaderBytes);
  std::memcpy(out.data(), &length, sizeof length);
}

void encode_up(Up& up, uint32_t epoch, size_t cut_bytes,
               const std::function<std::string&()>& next) {
  std::string* out = nullptr;
  const auto section = [&](auto&& write) {
    if (out && out->size() >= cut_bytes) end_frame(*out), out = nullptr;
    if (!out) {
      out = &next();
      begin_frame(*out, FrameType::kUp, epoch);
      Writer w(*out);
      w.v(up.generation), w.v(up.applied);
    }
    Writer w(*out);
    write(w);
  };
  const auto ids = [&](std::vector<ItemId>& all, uint8_t tag) {
    constexpr size_t kChunk = 65'536;
    std::sort(all.begin(), all.end());
    for (size_t i = 0; i < all.size(); i += kChunk)
      section([&](Writer& w) { put_ids(w, &all[i], std::min(kChunk, all.size() - i), tag); });
  };
  // Who leaves comes first: what its silence completes must not pass for a join's zeros, should the
  // frame be cut in between.
  for (const Rank rank : up.leaving) section([&](Writer& w) { w.u8(7), put_rank(w, rank); });
  ids(up.full, 1), ids(up.partial, 2);
  for (const Carried& carried : up.carried)
    section(
        [&](Writer& w) { w.u8(10), w.v(carried.id), w.u8(carried.partial), w.s(carried.values); });
  for (const Declare& declare : up.declares) section([&](Writer& w) { w.u8(5), put(w, declare); });
  for (const Quiet& quiet : up.quiet)
    section([&](Writer& w) { w.u8(6), w.v(quiet.set), put_rank(w, quiet.last); });
  for (const StallQuery& stall : up.stalls)
    section([&](Writer& w) { w.u8(8), w.v(stall.set), w.s(stall.name); });
  for (const Missing& missing : up.missing)
    section([&](Writer& w) {
      w.u8(9), w.v(missing.query), w.v(missing.count), put(w, missing.ranks),
          put(w, missing.details);
    });
  if (out) end_frame(*out);
}

Status decode_up(std::string_view body, Up& up) {
  Reader r(body);
  up.clear();
  up.generation = get_u32(r), up.applied = r.v();
  while (!r.done()) {
    const uint8_t tag = r.u8();
    if (!get_section(r, tag, up))
      return corrupt("unknown section " + std::to_string(tag) + ": it speaks a newer protocol");
  }
  return r.ok() ? Status() : corrupt("malformed announcement");
}

// Payloads share one shape, so that a forwarder needs no knowledge of kinds; absent parts cost a
// byte.
void append_entry(std::string& log, const Entry& entry) {
  const size_t start = log.size();
  Writer w(log);
  w.u8(static_cast<uint8_t>(entry.kind)), w.v(entry.seq), w.v(entry.set), w.v(entry.id);
  w.u8(entry.lane), w.v(entry.number), w.u8(entry.drop_names);
  if (entry.kind == Kind::kRun || entry.kind == Kind::kBucket) {
    put_slices(w, entry);
    if (entry.kind == Kind::kRun) w.s(entry.values);
  } else {
    w.s(entry.name), w.z(entry.priority), put(w, entry.ranks);
    w.u8(static_cast<uint8_t>(entry.status.code())), w.s(entry.status.message());
    if (entry.kind == Kind::kDefine) put(w, entry.signature);
    if (entry.kind == Kind::kStallReport) put(w, entry.details);
  }
  char length[10];
  size_t digits = 0;
  for (size_t rest = log.size() - start;; rest >>= 7) {
    length[digits++] = static_cast<char>(rest >= 0x80 ? rest | 0x80 : rest);
    if (rest < 0x80) break;
  }
  log.insert(start, length, digits);
}

Status decode_entry(std::string_view& body, Entry& entry, std::string_view& raw) {
  Reader outer(body);
  Reader r(outer.s(Limits::kFrameBytes));
  if (!outer.ok()) return corrupt("malformed log");
  raw = body.substr(0, body.size() - outer.rest().size());
  body = outer.rest();
  const uint8_t kind = r.u8();
  if (kind < static_cast<uint8_t>(Kind::kDefine) || kind > static_cast<uint8_t>(Kind::kShutdown))
    return corrupt("unknown log entry " + std::to_string(kind) + ": it speaks a newer protocol");
  entry.reset(static_cast<Kind>(kind));
  entry.seq = r.v(), entry.set = get_u32(r), entry.id = get_u32(r);
  entry.lane = r.u8(), entry.number = get_u32(r), entry.drop_names = r.u8() & 1;
  if (entry.kind == Kind::kRun || entry.kind == Kind::kBucket) {
    get_slices(r, entry);
    if (entry.kind == Kind::kRun) entry.values = r.s(Limits::kValuesBytes);
  } else {
    entry.name = r.s(Limits::kNameBytes);
    entry.priority = static_cast<int16_t>(r.within(INT16_MIN, INT16_MAX));
    get(r, entry.ranks, Limits::kMembers);
    const Code code = get_enum(r, Code::kInternal);
    const std::string_view text = r.s(Limits::kTextBytes);
    if (code != Code::kOk) entry.status = {code, std::string(text)};
    if (entry.kind == Kind::kDefine) get(r, entry.signature);
    if (entry.kind == Kind::kStallReport) get(r, entry.details);
  }
  return r.ok() && r.done() ? Status() : corrupt("malformed log entry");
}

void append_abort(std::string& frame, const Abort& abort) {
  Writer w(frame);
  put_rank(w, abort.culprit);
  w.s(std::string_view(abort.cause).substr(0, Limits::kTextBytes));
}

Status decode_abort(std::string_view body, Abort& abort) {
  Reader r(body);
  abort.culprit = get_rank(r), abort.cause = r.s(Limits::kTextBytes);
  return r.ok() && r.done() ? Status() : corrupt("malformed abort");
}

void append_ahead(std::string& frame, const Ahead& ahead) {
  Writer w(frame);
  w.v(ahead.generation), w.v(ahead.id), w.s(ahead.values);
}

Status decode_ahead(std::string_view body, Ahead& ahead) {
  Reader r(body);
  ahead.generation = get_u32(r), ahead.id = get_u32(r), ahead.values = r.s(Limits::kValuesBytes);
  return r.ok() && r.done() ? Status() : corrupt("malformed values");
}

Status decode_frame(std::string_view bytes, Frame& frame) {
  Reader r(bytes);
  const uint32_t length = r.u32();
  const uint8_t type = r.u8();
  r.take(3);
  frame.epoch = r.u32(), frame.body = r.rest();
  if (!r.ok() || frame.body.size() != length || length > Limits::kFrameBytes)
    return corrupt("malformed frame");
  frame.type = static_cast<FrameType>(type);
  const bool known = frame.type >= FrameType::kUp && frame.type <= FrameType::kPing;
  if (!known && frame.type != FrameType::kAhead)
    return corrupt("unknown frame type " + std::to_string(type) + ": it speaks a newer protocol");
  return {};
}

Status check_limits(std::string_view name, const Signature& signature) {
  const auto bad = [&](std::string what) {
    return Status(Code::kInvalidArgument,
                  "'" + std::string(name.substr(0, 64)) + "': " + std::move(what));
  };
  if (name.size() > Limits::kNameBytes)
    return bad("the name has " + std::to_string(name.size()) + " bytes; at most 1024 are allowed");
  if (signature.chain.size() > Limits::kChainBytes)
    return bad("the compression config is longer than 1024 bytes");
  if (signature.shapes.size() > Limits::kParts) return bad("a group has more than 65,536 tensors");
  if (std::isnan(signature.prescale) || std::isnan(signature.postscale))
    return bad("a scale is not a number");
  if (signature.op == Op::kJoin) return bad("join is not submitted by name");
  if (signature.op == Op::kAddSet) return {};
  uint64_t total = 0;
  for (const Shape& shape : signature.shapes) {
    if (shape.size() > Limits::kDims) return bad("a tensor has more than 16 dimensions");
    uint64_t count = 1;
    for (const int64_t dim : shape) {
      if (dim < 0) return bad("a tensor has the negative dimension " + std::to_string(dim));
      if (dim > 0 && count > static_cast<uint64_t>(Limits::kElements) / static_cast<uint64_t>(dim))
        return bad("a tensor has more than 2^48 elements");
      count *= static_cast<uint64_t>(dim);
    }
    total += count;
    if (total > static_cast<uint64_t>(Limits::kElements)) return bad("more than 2^48 elements");
  }
  return {};
}

}  // namespace hora
