#include "frameworks/membership.h"

#include <chrono>
#include <memory>
#include <utility>

#include "frameworks/errors.h"
#include "hora/config.h"
#include "hora/membership.h"

namespace nb = nanobind;

namespace hora {
namespace {

/// A Membership in Python's hands.
class Seat {
 public:
  Seat(std::unique_ptr<Membership> membership, double timeout)
      : membership_(std::move(membership)), timeout_(timeout) {}

  /// The launcher's decision, when it has made one. Ctrl-C raises.
  Place next_place() const {
    check([&] {
      const nb::gil_scoped_release unlocked;
      return membership_->ask();
    }());
    // The launcher gives up after `timeout_`; twice that, and it is not there to do so.
    for (std::chrono::duration<double> waited = kNone; waited < 2 * timeout_ + kMargin;
         waited += kSignalPeriod) {
      Result<Place> place = [&] {
        const nb::gil_scoped_release unlocked;
        return membership_->answer(kSignalPeriod);
      }();
      if (place.ok()) return place.value();
      if (place.status().code() != Code::kTimeout) check(place.status());
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    raise(Status(Code::kTimeout, "horarun has not said who takes part in the next epoch"));
  }

  bool await_change(uint32_t epoch) const {
    const nb::gil_scoped_release unlocked;
    return membership_->await_change(epoch);
  }

  void leave(uint32_t epoch) const {
    const nb::gil_scoped_release unlocked;
    membership_->leave(epoch);
  }

 private:
  static constexpr std::chrono::milliseconds kSignalPeriod{100};
  static constexpr std::chrono::duration<double> kNone{0}, kMargin{60};

  std::unique_ptr<Membership> membership_;
  std::chrono::duration<double> timeout_;
};

nb::object open_seat() {
  const Config config = take(Config::from_environment());
  if (config.worker == 0) return nb::none();
  auto membership = take([&] {
    const nb::gil_scoped_release unlocked;
    return Membership::open(config);
  }());
  return nb::cast(Seat(std::move(membership), config.elastic_timeout));
}

}  // namespace

void define_membership(nb::module_& m) {
  nb::class_<Place>(m, "Place", "Where this process stands in an epoch of an elastic job.")
      .def_ro("epoch", &Place::epoch)
      .def_ro("rank", &Place::rank);
  nb::class_<Seat>(m, "Membership", "This process's place in an elastic job.")
      .def_static("open", &open_seat, "None if the job is not elastic.")
      .def("next_place", &Seat::next_place, "Asks for a Place, and waits.")
      .def("await_change", &Seat::await_change, nb::arg("epoch"))
      .def("leave", &Seat::leave, nb::arg("epoch"));
}

}  // namespace hora
