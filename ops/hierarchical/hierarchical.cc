#include "ops/hierarchical/hierarchical.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ops/hierarchical/communicator.h"

namespace hora::hierarchical {
namespace {

/// A column's name for `across`, which tells communicators of one lane apart by their set.
SetId column_set(SetId set, size_t column) {
  constexpr int kSetBits = 24;
  return set | static_cast<SetId>(column + 1) << kSetBits;
}

class HierarchicalBackend final : public Backend {
 public:
  HierarchicalBackend(std::unique_ptr<Backend> inside, std::unique_ptr<Backend> across,
                      std::vector<int> hosts, Rank rank, const Costs& costs)
      : inside_(std::move(inside)),
        across_(std::move(across)),
        hosts_(std::move(hosts)),
        rank_(rank),
        costs_(costs),
        name_(std::string(inside_->name()) + "+" + std::string(across_->name())) {}

  std::string_view name() const override { return name_; }

  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    Links links;
    const Layout layout = Layout::of(ranks, hosts_, rank_);
    if (layout.me < 0)
      return Status(Code::kInvalidArgument, "hierarchical: rank " + std::to_string(rank_) +
                                                " is no member of set " + std::to_string(set));
    if (layout.local.size() > 1 || layout.hosts == 1) {
      auto made = inside_->communicator(set, layout.local, lane);
      if (!made.ok()) return made.status();
      links.inside = std::move(made).value();
    }
    if (layout.hosts > 1) {
      auto made = across_->communicator(set, ranks, lane);
      if (!made.ok()) return made.status();
      links.flat = std::move(made).value();
    }
    if (layout.hosts > 1 && !layout.column.empty()) {
      auto made = across_->communicator(column_set(set, layout.local_index), layout.column, lane);
      if (!made.ok()) return made.status();
      links.column = std::move(made).value();
    }
    return std::unique_ptr<Communicator>(
        std::make_unique<HierarchicalCommunicator>(layout, std::move(links), costs_, lane));
  }

  Result<std::span<std::byte>> arena(size_t bytes) override { return inside_->arena(bytes); }

  // Inside a host ranks ring.
  int watched() const override { return across_->watched(); }
  void look() override { across_->look(); }

 private:
  const std::unique_ptr<Backend> inside_, across_;
  const std::vector<int> hosts_;
  const Rank rank_;
  const Costs costs_;
  const std::string name_;
};

}  // namespace

std::unique_ptr<Backend> open(std::unique_ptr<Backend> inside, std::unique_ptr<Backend> across,
                              std::vector<int> hosts, Rank rank, const Costs& costs) {
  return std::make_unique<HierarchicalBackend>(std::move(inside), std::move(across),
                                               std::move(hosts), rank, costs);
}

}  // namespace hora::hierarchical
