#include "ops/shm/runs.h"

#include <algorithm>
#include <functional>

#include "ops/cursor.h"

namespace hora::shm {
namespace {

uint64_t offset_in_arena(const Member& me, const Segment& segment, size_t bytes) {
  const std::less_equal<const std::byte*> before;  // of unrelated pointers, too
  const bool inside =
      before(me.arena, segment.data) && before(segment.data + bytes, me.arena + me.arena_bytes);
  return inside ? static_cast<uint64_t>(segment.data - me.arena) : Run::kPrivate;
}

}  // namespace

bool describe(const Member& me, std::span<const Segment> segments, size_t width) {
  Runs& runs = me.window->runs;
  runs.count = 0;
  bool any = false;
  for (const Segment& segment : segments) {
    const size_t bytes = segment.count * width;
    if (bytes == 0) continue;
    const uint64_t offset = offset_in_arena(me, segment, bytes);
    Run* last = runs.count > 0 ? &runs.run[runs.count - 1] : nullptr;
    const bool joins = last && (offset == Run::kPrivate ? last->offset == Run::kPrivate
                                                        : last->offset + last->bytes == offset);
    if (joins) {
      last->bytes += bytes;
    } else if (runs.count < kRuns) {
      runs.run[runs.count++] = {offset, bytes};
    } else {  // too many to tell: all private
      runs.count = 1;
      runs.run[0] = {Run::kPrivate, count_in(segments) * width};
      return false;
    }
    any |= offset != Run::kPrivate;
  }
  return any;
}

Status Split::make(const Group& group, std::span<const Segment> segments, size_t width) {
  members_ = group.size();
  common_ = 0;
  at_.clear();
  counts_.clear();
  memory_.clear();
  rest_.clear();
  for (const Member& member : group.members) at_.push_back({&member.window->runs, 0, 0});
  Cursor cursor(segments, width);
  for (size_t left = count_in(segments) * width; left > 0;) {
    size_t bytes = 0;
    bool everywhere = false;
    HORA_TRY(advance(group, left, bytes, everywhere));
    const size_t count = bytes / width;
    if (everywhere) {
      counts_.push_back(count);
      for (size_t i = 0; i < members_; ++i)
        memory_.push_back(group.members[i].arena + at_[i].runs->run[at_[i].run].offset +
                          at_[i].inside);
      common_ += count;
      cursor.take(count, [](std::byte*, size_t, size_t) {});
    } else {
      cursor.take(count, [&](std::byte* data, size_t piece, size_t) {
        if (!rest_.empty() && rest_.back().data + rest_.back().count * width == data)
          rest_.back().count += piece;
        else
          rest_.push_back({data, piece});
      });
    }
    skip(bytes);
    left -= bytes;
  }
  return {};
}

Status Split::advance(const Group& group, size_t left, size_t& bytes, bool& everywhere) {
  bytes = left;
  everywhere = true;
  for (size_t i = 0; i < members_; ++i) {
    const At& at = at_[i];
    const bool there = at.runs->count <= kRuns && at.run < at.runs->count;
    const Run run = there ? at.runs->run[at.run] : Run{0, 0};
    const uint64_t room = group.members[i].arena_bytes;
    const bool sane =
        there && run.bytes > at.inside &&
        (run.offset == Run::kPrivate || (run.offset <= room && run.bytes <= room - run.offset));
    if (!sane)
      return {Code::kCorrupt, "shm: member " + std::to_string(i) + " of " +
                                  std::to_string(members_) +
                                  " describes other memory than the operation needs"};
    bytes = std::min<size_t>(bytes, run.bytes - at.inside);
    everywhere &= run.offset != Run::kPrivate;
  }
  return {};
}

void Split::skip(size_t bytes) {
  for (At& at : at_) {
    at.inside += bytes;
    if (at.inside < at.runs->run[at.run].bytes) continue;
    at.inside = 0;
    ++at.run;
  }
}

}  // namespace hora::shm
