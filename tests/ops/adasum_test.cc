// Goal: adasum computes what its paper defines, for any number of ranks, tensor by tensor, with the
// same bits on all ranks, and over every backend.
// Method: every rank can make every rank's input from a seed and climbs the tree by itself, vector
// by vector in double. Inputs are small integers, so with two ranks the inner products are exact
// and so is the comparison; with more, levels round and a tolerance is derived from their number.

#include "ops/adasum.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/backend_fixture.h"
#include "tests/support/data.h"

namespace hora {
namespace {

using support::Bytes;
using support::Party;
using support::Values;

using Vector = std::vector<double>;

double dot(const Vector& x, const Vector& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

Vector pair_by_definition(const Vector& x, const Vector& y) {
  const double xx = dot(x, x), yy = dot(y, y), xy = dot(x, y);
  Vector result(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    result[i] = (xx == 0 ? 1 : 1 - xy / (2 * xx)) * x[i] + (yy == 0 ? 1 : 1 - xy / (2 * yy)) * y[i];
  return result;
}

Vector by_definition(std::vector<Vector> vectors) {
  while (vectors.size() > 1) {
    std::vector<Vector> next;
    for (size_t i = 0; i + 1 < vectors.size(); i += 2)
      next.push_back(pair_by_definition(vectors[i], vectors[i + 1]));
    if (vectors.size() % 2 == 1) next.push_back(vectors.back());
    vectors = std::move(next);
  }
  return vectors[0];
}

Bytes narrowed(DType dtype, const Vector& values) {
  Bytes bytes(values.size() * bytes_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto single = static_cast<float>(values[i]);
    const uint16_t half =
        dtype == DType::kFloat16 ? support::narrow_half(single) : support::narrow_bfloat(single);
    const void* from = dtype == DType::kFloat64   ? static_cast<const void*>(&values[i])
                       : dtype == DType::kFloat32 ? static_cast<const void*>(&single)
                                                  : &half;
    std::memcpy(bytes.data() + i * bytes_of(dtype), from, bytes_of(dtype));
  }
  return bytes;
}

/// Integers from -2 to 2, which differ by rank.
Vector input_of(size_t count, uint64_t seed, size_t rank) {
  support::Random random(seed * 97 + rank);
  Vector values(count);
  for (double& value : values) value = static_cast<double>(random.below(5)) - 2;
  return values;
}

Vector expected(size_t count, uint64_t seed, size_t members) {
  std::vector<Vector> inputs;
  for (size_t r = 0; r < members; ++r) inputs.push_back(input_of(count, seed, r));
  return by_definition(std::move(inputs));
}

/// This rank's tensors, reduced as one bucket.
std::string reduce(Party& party, std::vector<Bytes>& tensors, const Reduction& terms) {
  std::vector<Segment> segments;
  for (Bytes& tensor : tensors)
    segments.push_back({tensor.data(), tensor.size() / bytes_of(terms.dtype)});
  const uint64_t sequence = party.tag() / Tag::kExchanges;
  HORA_WANT_OK(party.run(adasum(party.lane(), party.world(), sequence, segments, terms)));
  return "";
}

std::string same_everywhere(Party& party, Bytes mine) {
  Bytes root = mine;
  const Segment segment{root.data(), root.size()};
  HORA_WANT_OK(party.run(party.world().broadcast(party.lane(), party.tag(), {&segment, 1}, 0)));
  HORA_WANT(root == mine, "ranks hold different bits");
  return "";
}

std::string check_bucket(Party& party, DType dtype, const std::vector<size_t>& counts,
                         uint64_t seed) {
  const auto me = static_cast<size_t>(party.rank());
  std::vector<Bytes> together;
  for (size_t i = 0; i < counts.size(); ++i)
    together.push_back(narrowed(dtype, input_of(counts[i], seed + i, me)));
  const std::vector<Bytes> inputs = together;
  const Reduction terms{dtype, ReduceOp::kAdasum};
  HORA_WANT_NOTHING(reduce(party, together, terms));
  // Half an ulp of the type at each level, amplified by factors of up to about 2.
  const double unit = dtype == DType::kFloat16    ? 1.0 / 2048
                      : dtype == DType::kBFloat16 ? 1.0 / 256
                      : dtype == DType::kFloat32  ? 1e-7
                                                  : 1e-15;
  for (size_t i = 0; i < counts.size(); ++i) {
    const std::string what = std::string(name_of(dtype)) + " " + std::to_string(counts[i]) + ": ";
    const Vector wanted = expected(counts[i], seed + i, party.members());
    if (party.size() <= 2) {
      const std::string wrong = support::difference(dtype, together[i], narrowed(dtype, wanted));
      HORA_WANT(wrong.empty(), what + wrong);
    }
    const double allowed = unit * 16 * (1 + std::sqrt(dot(wanted, wanted)));
    for (size_t k = 0; k < counts[i]; ++k) {
      const double got = support::value_at(dtype, together[i], k);
      HORA_WANT(std::abs(got - wanted[k]) <= allowed,
                what + std::to_string(got) + " for " + std::to_string(wanted[k]));
    }
    HORA_WANT_NOTHING(same_everywhere(party, together[i]));
    std::vector<Bytes> alone = {inputs[i]};
    HORA_WANT_NOTHING(reduce(party, alone, terms));
    HORA_WANT(party.of().own_order || alone[0] == together[i],
              what + "the bucket changed the result");
  }
  return "";
}

class Adasum : public support::OnBackend {};

TEST_P(Adasum, IsWhatThePaperDefinesForEveryTypeAndNumberOfRanks) {
  for (const int size : {1, 2, 3, 4, 5, 8}) {
    check(size, [](Party& party) -> std::string {
      uint64_t seed = 0;
      for (const DType dtype :
           {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64})
        HORA_WANT_NOTHING(check_bucket(party, dtype, {1, 7, 16, 0, 1000}, seed += 10));
      return "";
    });
  }
}

TEST_P(Adasum, AddsWhatIsOrthogonalAndAveragesWhatIsParallel) {
  check(4, [](Party& party) -> std::string {
    Vector own(8, 0), all(8, 0);
    for (size_t i = 0; i < 8; ++i) {
      if (static_cast<int>(i % 4) == party.rank()) own[i] = static_cast<double>(i) + 1;
      all[i] = static_cast<double>(i) + 1;
    }
    std::vector<Bytes> tensors = {narrowed(DType::kFloat32, own), narrowed(DType::kFloat32, all)};
    HORA_WANT_NOTHING(reduce(party, tensors, {DType::kFloat32, ReduceOp::kAdasum}));
    for (const Bytes& tensor : tensors)
      HORA_WANT(tensor == narrowed(DType::kFloat32, all), "neither the sum nor the mean");
    return "";
  });
}

TEST_P(Adasum, ZerosChangeNothingAndScalesApplyBeforeAndAfter) {
  check(3, [](Party& party) -> std::string {
    const Vector values = input_of(100, 5, 0);
    const bool mine = party.rank() == 1;
    std::vector<Bytes> tensors = {narrowed(DType::kFloat64, mine ? values : Vector(100, 0))};
    HORA_WANT_NOTHING(reduce(party, tensors, {DType::kFloat64, ReduceOp::kAdasum, 4, 0.5}));
    Vector doubled = values;
    for (double& value : doubled) value *= 2;
    const std::string wrong =
        support::difference(DType::kFloat64, tensors[0], narrowed(DType::kFloat64, doubled));
    HORA_WANT(wrong.empty(), wrong);
    return "";
  });
}

TEST_P(Adasum, ANanSpreadsOverItsTensorAndNoOther) {
  check(3, [](Party& party) -> std::string {
    Vector poisoned = input_of(50, 1, static_cast<size_t>(party.rank()));
    if (party.rank() == 2) poisoned[7] = std::numeric_limits<double>::infinity();
    std::vector<Bytes> tensors = {narrowed(DType::kFloat32, poisoned),
                                  narrowed(DType::kFloat32, Vector(50, 1))};
    HORA_WANT_NOTHING(reduce(party, tensors, {DType::kFloat32, ReduceOp::kAdasum}));
    for (size_t i = 0; i < 50; ++i) {
      HORA_WANT(std::isnan(support::value_at(DType::kFloat32, tensors[0], i)), std::to_string(i));
      HORA_WANT(support::value_at(DType::kFloat32, tensors[1], i) == 1, std::to_string(i));
    }
    return "";
  });
}

TEST_P(Adasum, ManyAndLargeTensorsInTurn) {
  check(2, [](Party& party) -> std::string {
    std::vector<size_t> counts(40, 33);
    counts.push_back(300000);
    return check_bucket(party, DType::kFloat32, counts, 500);
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, Adasum, ::testing::ValuesIn(support::backend_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hora
