# What to build, warnings, sanitizers, and the summary at the end.

option(HORA_BUILD_TESTS "Build the C++ tests" ON)
option(HORA_BUILD_BENCHMARKS "Build the benchmarks" ON)
option(HORA_BUILD_PYTHON "Build the Python extension (needs nanobind)" OFF)
option(HORA_WERROR "Warnings are errors" OFF)
option(HORA_SHARED_FMT "Link {fmt} as a shared library: builds in two thirds of the time" OFF)
set(HORA_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize takes them: address,undefined or thread")
foreach(part GLOO MPI CUDA NCCL)
  set(HORA_WITH_${part} AUTO CACHE STRING "Build the ${part} part: AUTO (if found), ON (or fail), OFF")
  set_property(CACHE HORA_WITH_${part} PROPERTY STRINGS AUTO ON OFF)
endforeach()

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS SSL Crypto)  # between hosts: handshakes, encryption

# Everything of ours compiles with this.
add_library(hora_flags INTERFACE)
target_include_directories(hora_flags INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR})
target_compile_options(hora_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  -ffp-contract=off -fvisibility=hidden)
target_link_libraries(hora_flags INTERFACE Threads::Threads)
if(HORA_WERROR)
  target_compile_options(hora_flags INTERFACE -Werror)
endif()
set(HORA_LOOPS -O3)  # for kernels, in every build type
if(HORA_SANITIZE)
  set(HORA_LOOPS -O1)
  # Whoever follows a null pointer crashes anyway; checks for it double the time to compile.
  target_compile_options(hora_flags INTERFACE
    -fsanitize=${HORA_SANITIZE} -fno-sanitize=null -fno-omit-frame-pointer)
  target_link_options(hora_flags INTERFACE -fsanitize=${HORA_SANITIZE})
  if(HORA_SANITIZE MATCHES "thread")
    target_compile_options(hora_flags INTERFACE -Wno-tsan)  # fences are not modeled; ours only avert missed wakes
  endif()
endif()
if(HORA_SHARED_FMT)
  find_package(fmt REQUIRED)
  target_link_libraries(hora_flags INTERFACE fmt::fmt)
else()  # what is shipped needs no library of the machine that built it
  target_compile_definitions(hora_flags INTERFACE FMT_HEADER_ONLY=1)
endif()

# One object library for each folder: the linker must keep files that only register themselves.
function(hora_object_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  add_library(${name} OBJECT ${sources})
  target_link_libraries(${name} PUBLIC hora_flags ${ARGN})
endfunction()

# tests/<folder>/*_test.cc become one program.
function(hora_test name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE hora_core hora_test_support GTest::gtest_main)
  target_compile_options(${name} PRIVATE -Wno-dangling-else)  # "if (x) EXPECT_EQ(..)" reads well
  if(HORA_SANITIZE MATCHES "undefined")  # a third of the time; what reads foreign bytes keeps them
    target_compile_options(${name} PRIVATE -fno-sanitize=alignment,object-size,vptr)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  # Ranks that are threads share two cores; other tests run side by side.
  set(processors 2)
  if(name MATCHES "^(compressors|simulation|fuzz)_test$")
    set(processors 1)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT 900 PROCESSORS ${processors})
endfunction()

# hora_part(GLOO found "libgloo-dev not found"): decides AUTO, ON, OFF and remembers why.
function(hora_part part found reason)
  set(wanted ${HORA_WITH_${part}})
  if(wanted STREQUAL "OFF")
    set(enabled OFF)
    set(why "switched off")
  elseif(found)
    set(enabled ON)
    set(why "")
  elseif(wanted STREQUAL "ON")
    message(FATAL_ERROR "HORA_WITH_${part}=ON, but ${reason}")
  else()
    set(enabled OFF)
    set(why "${reason}")
  endif()
  set(HORA_HAS_${part} ${enabled} CACHE INTERNAL "")
  set(HORA_WHY_${part} "${why}" CACHE INTERNAL "")
endfunction()

function(hora_print_summary)
  message(STATUS "Hora ${PROJECT_VERSION}, ${CMAKE_BUILD_TYPE}${HORA_SANITIZE}")
  message(STATUS "  shm    yes (always)")
  foreach(part GLOO MPI CUDA NCCL)
    string(TOLOWER ${part} lower)
    if(HORA_HAS_${part})
      message(STATUS "  ${lower}\tyes")
    else()
      message(STATUS "  ${lower}\tno: ${HORA_WHY_${part}}")
    endif()
  endforeach()
  message(STATUS "  python ${HORA_BUILD_PYTHON}, tests ${HORA_BUILD_TESTS}, benchmarks ${HORA_BUILD_BENCHMARKS}")
endfunction()
