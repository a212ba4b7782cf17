#include "tests/support/backend_fixture.h"

#include <new>
#include <numeric>

#include <sys/mman.h>

namespace hora::support {
namespace {

// Cases register themselves before main(); the list must exist before the first does.
std::vector<BackendCase>& registered() {
  static std::vector<BackendCase> cases;
  return cases;
}

}  // namespace

bool add_backend_case(BackendCase one) {
  registered().push_back(std::move(one));
  return true;
}

const std::vector<BackendCase>& backend_cases() {
  return registered();
}

Party::Party(const BackendCase& of, std::unique_ptr<Backend> backend, Rank rank, int size)
    : of_(of), rank_(rank), size_(size), backend_(std::move(backend)) {}

Status Party::ready() {
  std::vector<Rank> everybody(members());
  std::iota(everybody.begin(), everybody.end(), 0);
  auto world = backend_->communicator(0, everybody, lane_.index());
  if (!world.ok()) return world.status();
  world_ = std::move(world).value();
  return {};
}

std::string run_case(const BackendCase& one, int size,
                     const std::function<std::string(Party&)>& body) {
  const Opener open = one.prepare(size);
  const RankBody rank_body = [&](Rank rank) -> std::string {
    auto backend = open(rank);
    HORA_WANT_OK(backend.status());
    Party party(one, std::move(backend).value(), rank, size);
    HORA_WANT_OK(party.ready());
    return body(party);
  };
  return one.processes ? run_processes(size, rank_body) : run_threads(size, rank_body);
}

SharedWords::SharedWords(size_t count) : count_(count) {
  void* memory = ::mmap(nullptr, count * sizeof(std::atomic<uint64_t>), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  HORA_CHECK(memory != MAP_FAILED, "no memory to share");
  words_ = static_cast<std::atomic<uint64_t>*>(memory);
  for (size_t i = 0; i < count; ++i) new (words_ + i) std::atomic<uint64_t>(0);
}

SharedWords::~SharedWords() {
  ::munmap(words_, count_ * sizeof(std::atomic<uint64_t>));
}

}  // namespace hora::support
