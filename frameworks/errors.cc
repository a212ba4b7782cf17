#include "frameworks/errors.h"

#include <string>

namespace nb = nanobind;

namespace hora {
namespace {

const char* exception_name(Code code) {
  switch (code) {
    case Code::kMismatch:
      return "Mismatch";
    case Code::kJoined:
      return "Joined";
    case Code::kSetRemoved:
      return "SetRemoved";
    case Code::kPeerLeft:
      return "PeerLeft";
    case Code::kShutdown:
      return "Shutdown";
    case Code::kPeerLost:
      return "PeerLost";
    case Code::kTimeout:
      return "Timeout";
    case Code::kOutOfMemory:
      return "OutOfMemory";
    case Code::kUnavailable:
      return "Unavailable";
    default:
      return "HoraError";
  }
}

}  // namespace

void raise(const Status& status) {
  if (status.code() == Code::kInvalidArgument) {
    PyErr_SetString(PyExc_ValueError, status.message().c_str());
  } else {
    const nb::object type =
        nb::module_::import_("hora._native").attr(exception_name(status.code()));
    PyErr_SetString(type.ptr(), status.message().c_str());
  }
  throw nb::python_error();
}

void define_exceptions(nb::module_& m) {
  const auto define = [&m](const char* name, nb::handle base, const char* doc) {
    const std::string full = std::string("hora.") + name;
    nb::object type = nb::steal(PyErr_NewExceptionWithDoc(full.c_str(), doc, base.ptr(), nullptr));
    if (!type.is_valid()) throw nb::python_error();
    m.attr(name) = type;
    return type;
  };
  const nb::object base =
      define("HoraError", PyExc_RuntimeError,
             "An operation failed; the message says what, where and what to do.");
  define("Mismatch", base, "Ranks disagree about an operation; all are told, and the job goes on.");
  define("Joined", base, "A member has joined, and zeros are not neutral for this operation.");
  define("SetRemoved", base, "The process set was removed while the operation waited.");
  define("PeerLeft", base, "A member has shut down and will never submit this operation.");
  define("Shutdown", base, "Hora has shut down in this process.");
  define("PeerLost", base, "A rank died, was cut off or fell silent; the job has to start again.");
  define("Timeout", base, "A deadline has passed.");
  define("OutOfMemory", base, "Memory that the operation needs could not be had.");
  define("Unavailable", base, "Something that this machine, build or process does not have.");
}

}  // namespace hora
