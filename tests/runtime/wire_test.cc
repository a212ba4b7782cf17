// Goal: what is written is read back, and no bytes whatever crash a decoder or pass a limit.
// Method: round trips; every truncation; seeded mutations (run under the sanitizers too).
#include "runtime/wire.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "runtime/byte_codec.h"

namespace hora {
namespace {

Signature shape(Shape dims) {
  Signature signature;
  signature.chain = "onebit", signature.granule = 32, signature.domain = 3;
  signature.shapes = {std::move(dims)};
  return signature;
}

Up full_up() {
  Up up;
  up.generation = 3, up.applied = 77;
  up.full = {1, 2, 3, 900}, up.partial = {7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  Carried& carried = up.carried.next();
  carried.id = 5, carried.partial = true, carried.values = "abc";
  up.declares.push_back({2, "weight", true, -5, {{3, 2, shape({2, 3})}, {4, 1, shape({})}}, "xy"});
  up.quiet.push_back({0, 1});
  up.leaving = {4};
  up.stalls.push_back({0, "x"});
  up.missing.push_back({1, 2, {3, 4}, {{3, "in forward()"}}});
  return up;
}

std::vector<std::string> frames_of(Up up, size_t cut_bytes = 1 << 20) {
  std::vector<std::string> frames;
  frames.reserve(100);
  encode_up(up, 9, cut_bytes, [&]() -> std::string& { return frames.emplace_back(); });
  return frames;
}

std::string log_of(const Entry& entry) {
  std::string frame;
  begin_frame(frame, FrameType::kLog, 9);
  append_entry(frame, entry);
  end_frame(frame);
  return frame;
}

Entry entry_of(Entry::Kind kind) {
  Entry entry;
  entry.reset(kind);
  entry.seq = 300, entry.set = 2, entry.id = 12, entry.number = 4;
  if (kind == Entry::Kind::kRun) {
    entry.lane = 2;
    entry.slices = {{900, 0, 5, 0, true}, {12, 16, 8, 0, false}};
    entry.values = "values";
    return entry;
  }
  entry.name = "weight", entry.priority = -7, entry.ranks = {1, 5};
  if (kind == Entry::Kind::kFail) entry.status = {Code::kMismatch, "no"};
  if (kind == Entry::Kind::kDefine) entry.signature = shape({2, 3});
  if (kind == Entry::Kind::kStallReport) entry.details = {{5, "in forward()"}};
  return entry;
}

Status decode_all(std::string_view bytes) {
  Frame frame;
  if (Status status = decode_frame(bytes, frame); !status.ok()) return status;
  Up up;
  Abort abort;
  Entry entry;
  if (frame.type == FrameType::kUp) return decode_up(frame.body, up);
  if (frame.type == FrameType::kAbort) return decode_abort(frame.body, abort);
  Ahead ahead;
  if (frame.type == FrameType::kAhead) return decode_ahead(frame.body, ahead);
  std::string_view raw;
  while (!frame.body.empty())
    if (Status status = decode_entry(frame.body, entry, raw); !status.ok()) return status;
  return {};
}

TEST(Wire, AnAnnouncementIsReadBack) {
  const auto frames = frames_of(full_up());
  ASSERT_EQ(frames.size(), 1u);
  Frame frame;
  ASSERT_TRUE(decode_frame(frames[0], frame).ok());
  EXPECT_EQ(frame.epoch, 9u);
  Up up;
  ASSERT_TRUE(decode_up(frame.body, up).ok());
  const Up sent = full_up();
  EXPECT_EQ(up.generation, sent.generation);
  EXPECT_EQ(up.applied, sent.applied);
  EXPECT_EQ(up.full, sent.full);
  EXPECT_EQ(up.partial, sent.partial);
  ASSERT_EQ(up.declares.size(), 1u);
  EXPECT_EQ(up.declares[0].name, "weight");
  EXPECT_EQ(up.declares[0].priority, -5);
  EXPECT_TRUE(up.declares[0].partial);
  ASSERT_EQ(up.declares[0].variants.size(), 2u);
  EXPECT_EQ(up.declares[0].variants[0].signature, sent.declares[0].variants[0].signature);
  EXPECT_EQ(up.missing[0].ranks, sent.missing[0].ranks);
  EXPECT_EQ(up.missing[0].details, sent.missing[0].details);
  EXPECT_EQ(up.leaving, sent.leaving);
  EXPECT_EQ(up.stalls[0].name, "x");
}

TEST(Wire, EveryKindOfEntryIsReadBackAndItsBytesArePassedOnAsTheyAre) {
  for (int kind = 1; kind <= 11; ++kind) {
    const Entry sent = entry_of(static_cast<Entry::Kind>(kind));
    std::string log;
    append_entry(log, sent);
    std::string_view rest = log, raw;
    Entry got;
    ASSERT_TRUE(decode_entry(rest, got, raw).ok()) << kind;
    EXPECT_EQ(raw, log);
    EXPECT_TRUE(rest.empty());
    EXPECT_EQ(got.seq, sent.seq);
    EXPECT_EQ(got.name, kind == 4 ? "" : sent.name);
    EXPECT_EQ(got.status, sent.status);
    EXPECT_EQ(got.details, sent.details);
    if (sent.kind == Entry::Kind::kDefine) {
      EXPECT_EQ(got.signature, sent.signature);
    }
    ASSERT_EQ(got.slices.size(), sent.slices.size());
    for (size_t i = 0; i < got.slices.size(); ++i) {
      EXPECT_EQ(got.slices[i].id, sent.slices[i].id);
      EXPECT_EQ(got.slices[i].first, sent.slices[i].first);
      EXPECT_EQ(got.slices[i].count, sent.slices[i].count);
      EXPECT_EQ(got.slices[i].last, sent.slices[i].last);
    }
  }
}

TEST(Wire, AReadyBitAndAStableBucketAreTinyFrames) {
  Up up;
  up.full = {5};
  EXPECT_LE(frames_of(up)[0].size(), 20u);
  Entry run;
  run.reset(Entry::Kind::kRun);
  run.seq = 1000, run.id = 300, run.lane = 1;
  EXPECT_LE(log_of(run).size(), 24u);
}

TEST(Wire, LongAnnouncementsAreCutAtASection) {
  Up up = full_up();
  for (int i = 0; i < 3000; ++i)
    up.declares.push_back({0, std::string(1000, 'n') + std::to_string(i), false, 0, {{0, 1, {}}}});
  const auto frames = frames_of(up);
  EXPECT_GT(frames.size(), 2u);
  size_t declares = 0;
  for (const auto& bytes : frames) {
    EXPECT_LT(bytes.size(), (1u << 20) + 8192);
    Frame frame;
    Up part;
    ASSERT_TRUE(decode_frame(bytes, frame).ok());
    ASSERT_TRUE(decode_up(frame.body, part).ok());
    EXPECT_EQ(part.generation, 3u);
    declares += part.declares.size();
  }
  EXPECT_EQ(declares, 3001u);
}

// Otherwise the root may hear that a member is quiet, and not yet that it has left for good.
TEST(Wire, WhoLeavesIsAnnouncedBeforeItsSilenceWhereverTheFrameIsCut) {
  const auto frames = frames_of(full_up(), 1);
  EXPECT_GT(frames.size(), 5u);
  Frame frame;
  Up part;
  ASSERT_TRUE(decode_frame(frames[0], frame).ok());
  ASSERT_TRUE(decode_up(frame.body, part).ok());
  EXPECT_EQ(part.leaving, (std::vector<Rank>{4}));
  EXPECT_TRUE(part.full.empty() && part.quiet.empty());
}

TEST(Wire, RefusesEveryTruncation) {
  std::vector<std::string> frames = frames_of(full_up());
  for (int kind = 1; kind <= 11; ++kind)
    frames.push_back(log_of(entry_of(static_cast<Entry::Kind>(kind))));
  for (const auto& whole : frames) {
    EXPECT_TRUE(decode_all(whole).ok());
    for (size_t bytes = 0; bytes < whole.size(); ++bytes)
      EXPECT_FALSE(decode_all(whole.substr(0, bytes)).ok()) << bytes;
  }
}

TEST(Wire, SurvivesMutatedFrames) {
  std::vector<std::string> frames = frames_of(full_up());
  for (int kind = 1; kind <= 11; ++kind)
    frames.push_back(log_of(entry_of(static_cast<Entry::Kind>(kind))));
  std::string abort;
  begin_frame(abort, FrameType::kAbort, 9);
  append_abort(abort, {1, "gone"});
  end_frame(abort);
  frames.push_back(abort);
  std::mt19937 rng(1);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string bytes = frames[rng() % frames.size()];
    for (auto n = 1 + rng() % 4; n > 0; --n)
      bytes[12 + rng() % (bytes.size() - 12)] = static_cast<char>(rng());
    ++(decode_all(bytes).ok() ? accepted : refused);
    if (rng() % 4 == 0) bytes.resize(12 + rng() % (bytes.size() - 12)), end_frame(bytes);
    ++(decode_all(bytes).ok() ? accepted : refused);
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(Wire, RefusesWhatExceedsTheLimits) {
  const auto declared = [](const Signature& signature, const std::string& name = "x") {
    Up up;
    up.declares.push_back({0, name, false, 0, {{0, 1, signature}}});
    return decode_all(frames_of(up)[0]);
  };
  EXPECT_TRUE(declared(shape(Shape(16, 1))).ok());
  EXPECT_FALSE(declared(shape(Shape(17, 1))).ok());
  EXPECT_FALSE(declared(shape({-1})).ok());
  EXPECT_FALSE(declared(shape({int64_t{1} << 40, 1 << 9})).ok());
  EXPECT_FALSE(declared(shape({1}), std::string(1025, 'x')).ok());
  Signature chain = shape({1});
  chain.chain.assign(1025, 'c');
  EXPECT_FALSE(declared(chain).ok());
  Signature join = shape({1});
  join.op = Op::kJoin;
  EXPECT_FALSE(declared(join).ok());
  Signature add = shape(Shape(1000, 1));
  add.op = Op::kAddSet;
  EXPECT_TRUE(declared(add).ok());
  Up up;
  up.declares.push_back({0, "x", false, 0, {}});
  EXPECT_FALSE(decode_all(frames_of(up)[0]).ok());
  Entry long_text = entry_of(Entry::Kind::kFail);
  long_text.status = {Code::kMismatch, std::string(4097, 't')};
  EXPECT_FALSE(decode_all(log_of(long_text)).ok());
}

TEST(Wire, ALocalRequestBeyondTheLimitsIsToldWhy) {
  EXPECT_TRUE(check_limits("x", shape({2, 3})).ok());
  EXPECT_EQ(check_limits("x", shape(Shape(17, 1))).code(), Code::kInvalidArgument);
  EXPECT_EQ(check_limits("x", shape({-1})).message(),
            "'x': a tensor has the negative dimension -1");
  EXPECT_FALSE(check_limits(std::string(1025, 'x'), shape({1})).ok());
  Signature scaled = shape({1});
  scaled.prescale = std::nan("");
  EXPECT_FALSE(check_limits("x", scaled).ok());
}

TEST(Wire, WhatIsUnknownNamesANewerProtocol) {
  std::string frame;
  begin_frame(frame, static_cast<FrameType>(9), 1);
  EXPECT_NE(decode_all(frame).message().find("newer protocol"), std::string::npos);
  begin_frame(frame, FrameType::kUp, 1);
  Writer writer(frame);
  writer.v(0), writer.v(0), writer.u8(12);
  end_frame(frame);
  EXPECT_NE(decode_all(frame).message().find("newer protocol"), std::string::npos);
}

}  // namespace
}  // namespace hora
