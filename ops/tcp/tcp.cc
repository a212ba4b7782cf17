#include "ops/tcp/tcp.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "ops/tcp/communicator.h"
#include "ops/tcp/endpoint.h"
#include "ops/tcp/links.h"

namespace hora::tcp {
namespace {

constexpr int kStreamNumbers = 256;  // of a pair of ranks, on all lanes

class TcpBackend final : public Backend {
 public:
  TcpBackend(Dial dial, const Options& options)
      : dial_(std::move(dial)), options_(options), watch_(std::make_shared<Watch>()) {}

  std::string_view name() const override { return "tcp"; }
  int watched() const override { return watch_->descriptor(); }
  void look() override { watch_->look(); }
  const std::shared_ptr<Watch>& watch() const { return watch_; }

  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    const auto me = std::find(ranks.begin(), ranks.end(), options_.self);
    if (me == ranks.end())
      return Status(Code::kInvalidArgument,
                    fmt::format("tcp: rank {} is no member of process set {}", options_.self, set));
    if ((lane + 1) * options_.streams > kStreamNumbers)
      return Status(
          Code::kInvalidArgument,
          fmt::format("tcp: lane {} with {} streams each: there are numbers for {} in all", lane,
                      options_.streams, kStreamNumbers));
    std::shared_ptr<Links>& links = links_[lane];
    if (!links) links = std::make_shared<Links>(dial_, options_, lane, watch_);
    return std::unique_ptr<Communicator>(
        std::make_unique<TcpCommunicator>(links, std::vector<Rank>(ranks.begin(), ranks.end()),
                                          static_cast<int>(me - ranks.begin())));
  }

 private:
  const Dial dial_;
  const Options options_;
  const std::shared_ptr<Watch> watch_;
  std::map<int, std::shared_ptr<Links>> links_;
};

}  // namespace

std::unique_ptr<Backend> open(Dial dial, const Options& options) {
  return std::make_unique<TcpBackend>(std::move(dial), options);
}

std::unique_ptr<Backend> open(std::shared_ptr<Endpoint> endpoint, const Options& options) {
  Options ours = options;
  ours.self = endpoint->self().rank;
  ours.epoch = endpoint->self().epoch;
  Dial dial{[endpoint](Rank peer, uint8_t stream) { endpoint->want({peer, Role::kData, stream}); },
            [endpoint](Rank peer, uint8_t stream) {
              return endpoint->take({peer, Role::kData, stream});
            }};
  auto backend = std::make_unique<TcpBackend>(std::move(dial), ours);
  endpoint->on_fork([watch = backend->watch()] { watch->forget_in_child(); });
  return backend;
}

}  // namespace hora::tcp
