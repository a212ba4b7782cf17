// Goal: a butterfly brings every rank's entries to their owners whatever the number of ranks, every
// element has one owner and place, neighbors do not share one, and rooms are what the header says.
// Method: all ranks, elements and layers are counted through.

#include "compressors/merging.h"

#include <set>
#include <vector>

#include "tests/compressors/trial.h"

namespace hora {
namespace {

TEST(Butterfly, BringsEveryRanksEntriesToEveryOwner) {
  for (int ranks = 1; ranks <= 70; ++ranks) {
    const int half = ranks % 2 == 0 ? ranks / 2 : 1;
    const Butterfly butterfly(ranks, std::vector<int>{half, ranks / half});
    for (int from = 0; from < ranks; ++from) {
      for (int owner = 0; owner < ranks; ++owner) {
        int at = from;
        for (int i = 0; i < butterfly.layers(); ++i) {
          const Butterfly::Layer& layer = butterfly.layer(i);
          const int m = (owner - layer.first(at)) / layer.stride;
          ASSERT_TRUE(m >= 0 && m < layer.degree) << ranks << " " << from << " " << owner;
          at = layer.member(at, m);
        }
        ASSERT_EQ(at, owner) << ranks << " " << from;
      }
    }
  }
}

TEST(Butterfly, MembersOfAGroupSeeTheSameGroup) {
  for (const int ranks : {6, 12, 22, 35, 64}) {
    const Butterfly butterfly(ranks);
    for (int i = 0; i < butterfly.layers(); ++i) {
      const Butterfly::Layer& layer = butterfly.layer(i);
      for (int rank = 0; rank < ranks; ++rank) {
        bool among = false;
        for (int m = 0; m < layer.degree; ++m) {
          const int other = layer.member(rank, m);
          among = among || other == rank;
          for (int k = 0; k < layer.degree; ++k)
            ASSERT_EQ(layer.member(other, k), layer.member(rank, k));
        }
        ASSERT_TRUE(among) << ranks << " " << rank;
      }
    }
  }
}

std::vector<int> degrees(int ranks, std::vector<int> wanted = {}) {
  const Butterfly butterfly(ranks, wanted);
  std::vector<int> list;
  for (int i = 0; i < butterfly.layers(); ++i) list.push_back(butterfly.layer(i).degree);
  return list;
}

TEST(Butterfly, DegreesAreNotTooWideAndDoNotGrow) {
  EXPECT_EQ(degrees(1), std::vector<int>{});
  EXPECT_EQ(degrees(8), std::vector<int>{8});
  EXPECT_EQ(degrees(12), (std::vector<int>{6, 2}));
  EXPECT_EQ(degrees(17), std::vector<int>{17});
  EXPECT_EQ(degrees(22), (std::vector<int>{11, 2}));
  EXPECT_EQ(degrees(64), (std::vector<int>{8, 8}));
  EXPECT_EQ(degrees(96), (std::vector<int>{8, 6, 2}));
}

TEST(Butterfly, DegreesAreThoseWantedWhereTheyMakeTheRanks) {
  EXPECT_EQ(degrees(64, {8, 4, 2}), (std::vector<int>{8, 4, 2}));
  EXPECT_EQ(degrees(12, {2, 6}), (std::vector<int>{2, 6}));
  EXPECT_EQ(degrees(12, {12}), std::vector<int>{12});
  EXPECT_EQ(degrees(8, {4, 4}), std::vector<int>{8}) << "of another number of ranks";
}

TEST(Merging, EveryElementHasAPlaceOfItsOwn) {
  for (const int ranks : {1, 2, 3, 8, 17}) {
    for (const size_t count : {1, 31, 32, 33, 5000}) {
      const Trial trial("topk:ratio=1%", count);
      const Merging merging(*trial.codec, count, ranks);
      std::set<uint32_t> places;
      for (uint32_t element = 0; element < count; ++element) {
        const uint32_t place = merging.place(element);
        ASSERT_LT(place, merging.length() * static_cast<size_t>(ranks));
        ASSERT_EQ(merging.element(place), element);
        places.insert(place);
      }
      EXPECT_EQ(places.size(), count);
      for (uint32_t place = 0; place < merging.length() * static_cast<size_t>(ranks); ++place)
        ASSERT_EQ(merging.element(place) < count, places.contains(place));
    }
  }
}

// A column of a matrix is where gradients are large when one input is.
TEST(Merging, NoOwnerHasAWholeColumnOrRow) {
  constexpr size_t kRows = 512, kColumns = 1024;
  constexpr int kRanks = 8;
  const Trial trial("topk:ratio=1%", kRows * kColumns);
  const Merging merging(*trial.codec, kRows * kColumns, kRanks);
  const auto most_of = [&](size_t stride, size_t count) {
    std::vector<size_t> owned(kRanks);
    for (size_t i = 0; i < count; ++i)
      ++owned[merging.place(static_cast<uint32_t>(i * stride)) / merging.length()];
    return *std::max_element(owned.begin(), owned.end());
  };
  EXPECT_LT(most_of(kColumns, kRows), 2 * kRows / kRanks);
  EXPECT_LT(most_of(1, kColumns), 2 * kColumns / kRanks);
}

TEST(Merging, RoomIsBoundedByWhatThereIs) {
  for (const char* text : {"topk:ratio=0.1%", "topk:ratio=5%", "topk:ratio=100%"}) {
    for (const size_t count : {1, 100, 100000}) {
      const Trial trial(text, count);
      for (const int ranks : {1, 2, 5, 12, 64}) {
        const Merging merging(*trial.codec, count, ranks);
        for (int i = 0; i < merging.butterfly().layers(); ++i) {
          const Merging::Room room = merging.in(i);
          ASSERT_LE(room.most, room.length);
          ASSERT_LE(room.most, merging.held(i));
          ASSERT_LE(room.bytes(), 4 + 4 * room.length + 8);
        }
        ASSERT_LE(merging.out().bytes(), 4 + 4 * merging.length() + 8);
      }
    }
  }
}

}  // namespace
}  // namespace hora
