#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/recycled.h"
#include "runtime/vocabulary.h"

/// The control plane's messages as bytes. The grammar is at the top of wire.cc.
///
/// Errors: decoders give kCorrupt, never read outside of their input, and check every count against
/// Limits and every enumerator against its type before they keep anything. Results are filled into
/// objects of the caller, so that a steady state uses the same memory again.
namespace hora {

/// What a correct peer never exceeds.
struct Limits {
  static constexpr size_t kNameBytes = 1024, kChainBytes = 1024, kTextBytes = 4096, kParts = 65'536,
                          kDims = 16, kVariants = 4, kNamedRanks = 16, kIdsPerSection = 1 << 20,
                          kSlices = 65'536, kMembers = 1 << 20, kQuestions = 64, kInFlight = 65'536,
                          kFrameBytes = 64 << 20, kValuesBytes = 1 << 20;
  static constexpr int64_t kElements = int64_t{1} << 48;  ///< of one operation
};

/// One distinct signature announced for a name: the lowest rank seen with it, and how many had it.
struct Variant {
  Rank rank = 0;
  uint32_t count = 0;
  Signature signature;
};

struct Declare {
  SetId set = 0;
  std::string name;
  bool partial = false;  ///< some member of the subtree has joined or left instead of submitting
  int16_t priority = 0;
  std::vector<Variant> variants;  ///< at least one
  std::string values{};           ///< of a carried operation: what the subtree contributes
};

/// A carried operation that the cache knows, with values of some of its members.
struct Carried {
  ItemId id = 0;
  bool partial = false;
  std::string values;
};

/// All members of `set` below the sender have joined or left; `last` is one that joined last.
struct Quiet {
  SetId set = 0;
  Rank last = 0;
};

struct StallQuery {
  SetId set = 0;
  std::string name;
};

/// What a late rank says about itself: its last submit, its Python stack.
struct Detail {
  Rank rank = 0;
  std::string text;
  friend bool operator==(const Detail&, const Detail&) = default;
};

/// A subtree's answer to a stall question.
struct Missing {
  uint32_t query = 0, count = 0;
  std::vector<Rank> ranks;      ///< the lowest kNamedRanks of them, ascending
  std::vector<Detail> details;  ///< of some of `ranks`
};

/// Child to parent: what the child's whole subtree has newly become ready for.
struct Up {
  uint32_t generation = 0;
  Seq applied = 0;
  std::vector<ItemId> full, partial;
  Recycled<Carried> carried;
  std::vector<Declare> declares;
  std::vector<Quiet> quiet;
  std::vector<Rank> leaving;
  std::vector<StallQuery> stalls;
  std::vector<Missing> missing;

  bool empty() const {
    return full.empty() && partial.empty() && carried.empty() && declares.empty() &&
           quiet.empty() && leaving.empty() && stalls.empty() && missing.empty();
  }
  void clear_announcements() {
    full.clear(), partial.clear(), carried.clear(), declares.clear(), quiet.clear();
  }
  void clear() { clear_announcements(), leaving.clear(), stalls.clear(), missing.clear(); }
};

/// One decision of the root. Every rank applies its entries in order of `seq`.
struct Entry {
  enum class Kind : uint8_t {
    kDefine = 1,
    kRun,
    kFail,
    kBucket,
    kReset,
    kSetAdded,
    kSetRemoved,
    kJoinDone,
    kStallAsk,
    kStallReport,
    kShutdown,
  };
  Kind kind = Kind::kRun;
  Seq seq = 0;
  SetId set = 0;
  ItemId id = 0;        ///< define, bucket: the new item; run: its bucket or 0; reset: the next id
  uint8_t lane = 0;     ///< run: 1 + lane, or 0 if nothing is to be executed
  uint32_t number = 0;  ///< reset: generation; stalls: query or count; sets: the set's id
  bool drop_names = false;    ///< reset
  std::vector<Slice> slices;  ///< run; bucket (ids only)
  std::string values;         ///< run of a carried operation: of all its members
  std::string name;           ///< define, fail, sets, stalls
  int16_t priority = 0;
  std::vector<Rank> ranks;  ///< set members; stall report: late ranks; join: the last
  Status status;
  Signature signature;          ///< define
  std::vector<Detail> details;  ///< stall report

  void reset(Kind of);
};

enum class FrameType : uint8_t { kUp = 1, kLog = 2, kAbort = 3, kPing = 4, kAhead = 11 };

/// Parent to child: what the other members contributed to a carried operation, before the log says
/// that it runs. Whoever has announced it knows then that nothing can stop it.
struct Ahead {
  uint32_t generation = 0;
  ItemId id = 0;
  std::string_view values;
};

struct Frame {
  FrameType type = FrameType::kPing;
  uint32_t epoch = 0;
  std::string_view body;
};

/// A frame is begun, appended to, and ended.
void begin_frame(std::string& out, FrameType type, uint32_t epoch);
void end_frame(std::string& out);
void append_entry(std::string& log, const Entry& entry);
void append_abort(std::string& frame, const Abort& abort);
void append_ahead(std::string& frame, const Ahead& ahead);

/// Writes whole frames into the strings that `next` gives; another one when a section is to be
/// added to `cut_bytes` or more. Sorts the ids.
void encode_up(Up& up, uint32_t epoch, size_t cut_bytes, const std::function<std::string&()>& next);

Status decode_frame(std::string_view bytes, Frame& frame);
Status decode_up(std::string_view body, Up& up);
Status decode_abort(std::string_view body, Abort& abort);
Status decode_ahead(std::string_view body, Ahead& ahead);
/// Takes one entry off the front of `body`; `raw` is what it was encoded as, to be passed on.
Status decode_entry(std::string_view& body, Entry& entry, std::string_view& raw);

/// Is a request within the limits? kInvalidArgument says what is not.
Status check_limits(std::string_view name, const Signature& signature);

}  // namespace hora
