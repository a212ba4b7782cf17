// A rank whose neighbors say anything at all, one well-formed frame after the other: it must end
// the epoch and name somebody, or go on, and give the engine only what the engine can run.
//
//   input   = rank:u8 *turn
//   turn    = what:u8 [from:u8 bytes:u16 body]      ; see below
#include "runtime/negotiator.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

constexpr int kWorld = 5;

class Rank_ {
 public:
  explicit Rank_(Rank me) : at_(make_tree({0, 0, 1, 1, 2}, 1)[static_cast<size_t>(me)]) {
    options_.heartbeats = false, options_.lanes = 2, options_.bucket_bytes = 64;
    options_.cache_capacity = 6;
    negotiator_ = std::make_unique<Negotiator>(at_, kWorld, 1, options_, 0);
  }

  void turn(fuzz::Input& input) {
    const uint8_t what = input.byte();
    Inputs in;
    std::string frame;
    if (what < 160) {
      const Rank from = neighbor(input.byte());
      const auto type = what < 70    ? FrameType::kLog
                        : what < 140 ? FrameType::kUp
                                     : FrameType::kAbort;
      begin_frame(frame, type, 1);
      frame.append(input.piece_of(512));
      end_frame(frame);
      in.messages.push_back({from, frame});
    } else if (what < 220) {
      submit(in, what % 12);
    } else if (what < 230) {
      in.joins.push_back({what % 2u, next_++});
      open_.insert(next_ - 1);
    } else if (what < 240) {
      in.flushes.push_back(1);
    } else if (what < 250) {
      for (const Submission& each : submissions_) in.waits.push_back(&each);
      in.finished = plans_;
    } else {
      in.leave = what == 255;
      now_ += 1'000'000'000;
    }
    step(in);
  }

  // After the end nothing may be owed to the user but what lanes hold.
  void finish() {
    Inputs in;
    in.lost.push_back({at_.parent >= 0 ? at_.parent : at_.children[0], "the end"});
    step(in);
    FUZZ_CHECK(closed_);
    for (const Handle handle : open_) FUZZ_CHECK(owned_.contains(handle));
  }

 private:
  Rank neighbor(uint8_t which) const {
    const size_t all = at_.children.size() + (at_.parent >= 0);
    const size_t index = which % (all + 1);
    if (index < at_.children.size()) return at_.children[index];
    return index < all ? at_.parent : 4;  // perhaps a stranger
  }

  void submit(Inputs& in, int which) {
    Submission& each = submissions_.emplace_back();
    each.handle = next_++, each.set = which == 11 ? 1 : 0;
    each.name = which > 7 ? "add" : "x" + std::to_string(which);
    each.signature.domain = which % 2 ? 1 : 0;
    each.signature.op = which == 9 ? Op::kRemoveSet : which == 10 ? Op::kAddSet : Op::kAllreduce;
    each.signature.root = 1;
    each.signature.shapes = {{which == 10 ? Shape{0, 1} : Shape{which, 3}}};
    in.requests.push_back(&each);
    open_.insert(each.handle);
  }

  void step(const Inputs& in) {
    negotiator_->step(now_ += 1000, in, out_);
    for (const Plan& plan : out_.plans) {
      FUZZ_CHECK(plan.lane < options_.lanes && !plan.slices.empty());
      FUZZ_CHECK(negotiator_->members(plan.set) != nullptr);
      plans_.push_back(plan.seq);
      for (const Slice& slice : plan.slices) {
        const auto* item = negotiator_->cache().find(slice.id);
        FUZZ_CHECK(item && !item->is_bucket() && slice.first + slice.count <= item->count);
        if (slice.handle == 0) continue;
        FUZZ_CHECK(open_.contains(slice.handle));
        owned_.insert(slice.handle);
      }
    }
    for (const auto& done : out_.completions) {
      FUZZ_CHECK(!owned_.contains(done.handle));
      FUZZ_CHECK(open_.erase(done.handle) == 1);
    }
    for (const auto& send : out_.sends) {
      Frame frame;
      FUZZ_CHECK(decode_frame(send.bytes, frame).ok());
    }
    if (out_.aborted) FUZZ_CHECK(out_.closed && !out_.why.cause.empty());
    closed_ |= out_.closed;
  }

  const Position at_;
  Options options_;
  std::unique_ptr<Negotiator> negotiator_;
  std::deque<Submission> submissions_;
  std::set<Handle> open_, owned_;
  std::vector<Seq> plans_;
  Handle next_ = 1;
  Time now_ = 0;
  bool closed_ = false;
  Outputs out_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  fuzz::Input input(data, bytes);
  Rank_ rank(input.byte() % kWorld);
  for (int turns = 0; turns < 200 && !input.empty(); ++turns) rank.turn(input);
  rank.finish();
  return 0;
}
