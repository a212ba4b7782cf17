#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gloo/transport/tcp/device.h>

#include "ops/gloo/communicator.h"
#include "ops/gloo/quiet_pipes.h"
#include "ops/kernels/reduce.h"
#include "ops/plugin.h"

namespace hora::gloo {
namespace {

/// Gloo over TCP. One device, that is one thread of Gloo's, serves all communicators of a rank.
class GlooBackend : public Backend {
 public:
  GlooBackend(PluginContext context, std::shared_ptr<::gloo::transport::Device> device)
      : context_(std::move(context)), device_(std::move(device)) {}

  std::string_view name() const override { return "gloo"; }

  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    const auto self = std::find(ranks.begin(), ranks.end(), context_.rank);
    if (self == ranks.end())
      return Status(Code::kInvalidArgument, "gloo: rank " + std::to_string(context_.rank) +
                                                " is not a member of set " + std::to_string(set));
    // Keys are set once, so a second communicator of the same set and lane needs its own.
    const std::string place = std::to_string(set) + "/" + std::to_string(lane);
    const std::string prefix =
        "gloo/" + context_.job + "/" + place + "/" + std::to_string(opened_[place]++) + "/";
    return std::unique_ptr<Communicator>(std::make_unique<GlooCommunicator>(
        device_, context_, prefix, std::vector<Rank>(ranks.begin(), ranks.end()),
        static_cast<int>(self - ranks.begin())));
  }

 private:
  const PluginContext context_;
  const std::shared_ptr<::gloo::transport::Device> device_;
  std::map<std::string, int> opened_;
};

Result<std::unique_ptr<Backend>> open(const PluginContext& context) {
  if (!context.publish || !context.lookup || !context.ring)
    return Status(Code::kInvalidArgument, "gloo: the plug-in's context lacks a function");
  choose_isa(context.isa);
  try {
    const QuietPipes quiet;  // the device starts a thread, which inherits this
    ::gloo::transport::tcp::attr attributes;
    attributes.hostname = context.hostname;
    return std::unique_ptr<Backend>(
        std::make_unique<GlooBackend>(context, ::gloo::transport::tcp::CreateDevice(attributes)));
  } catch (const std::exception& error) {
    return Status(Code::kUnavailable,
                  "gloo: cannot use the address \"" + context.hostname + "\": " + error.what());
  }
}

}  // namespace
}  // namespace hora::gloo

extern "C" {

__attribute__((visibility("default"))) const char* hora_plugin_abi() {
  return hora::kPluginAbi;
}

__attribute__((visibility("default"))) void hora_backend_open(const hora::PluginContext* context,
                                                              hora::PluginAnswer* answer) {
  auto backend = hora::gloo::open(*context);
  answer->status = backend.status();
  if (backend.ok()) answer->backend = std::move(backend).value();
}
}
