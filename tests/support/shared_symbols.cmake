# cmake -DNM=nm -DOBJECTS="a.o;b.o" -P shared_symbols.cmake: fails if an object file defines a symbol
# that the linker could share with other files (weak, unique or vague): code for one instruction set
# that everybody would then run.
foreach(object ${OBJECTS})
  if(NOT object MATCHES "/reduce_[a-z0-9]+\\.cc")
    continue()
  endif()
  execute_process(COMMAND ${NM} -C ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(NOT symbols MATCHES " T hora::[a-z0-9]+::reduce" AND NOT object MATCHES "avx")
    message(FATAL_ERROR "${object} does not define reduce: is this the right file?")
  endif()
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" shared "${symbols}")
  if(shared)
    message(FATAL_ERROR "${object} defines what the linker may share: ${shared}")
  endif()
endforeach()
