# husk: the few functions that the CMakeLists.txt of each folder uses

add_compile_options(-Wall -Wextra -Wconversion -Wshadow -Werror)
if(HUSK_SANITIZE)
  add_compile_options(-fsanitize=${HUSK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HUSK_SANITIZE})
  if(HUSK_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options(-fsanitize-ignorelist=${PROJECT_SOURCE_DIR}/cmake/tsan_ignore.txt)
  endif()
  if(HUSK_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ warns at every std::atomic_thread_fence that its sanitizer does not take it for synchronization (clang's does
    # not either, and says nothing). husk has three: the guest's MFENCE and two of a virtqueue, each between a store and
    # a later load of guest memory. They order what guest and device see of each other; none publishes husk's own data to
    # another thread, so the sanitizer misses nothing by passing over them. A fence that does must become a
    # release/acquire pair on an atomic instead.
    add_compile_options(-Wno-tsan)
  endif()
endif()
if(HUSK_FUZZ)
  # The libraries too: without it libFuzzer sees only the target's own few lines.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
if(HUSK_TESTS)
  find_package(GTest REQUIRED)
endif()

# With HUSK_PCH the standard headers, fmt and GoogleTest are parsed once for each build, not once for each source. Off by
# default: sources must name what they use, and ccache does not see through a precompiled header.
option(HUSK_PCH "Precompile the headers that most sources use (g++)" OFF)
if(HUSK_PCH)
  file(WRITE ${PROJECT_BINARY_DIR}/pch/library.cpp "\n")
  set(pch_headers <algorithm> <array> <atomic> <chrono> <cstdint> <cstring> <expected> <functional> <map> <memory>
    <mutex> <optional> <span> <string> <string_view> <tuple> <unordered_map> <utility> <variant> <vector> <fmt/format.h>)
  add_library(husk_pch OBJECT ${PROJECT_BINARY_DIR}/pch/library.cpp)
  target_link_libraries(husk_pch PUBLIC fmt::fmt)
  target_precompile_headers(husk_pch PRIVATE ${pch_headers})
  if(HUSK_TESTS)
    # A program, since those are compiled as -fPIE and a precompiled header fits only its own settings.
    file(WRITE ${PROJECT_BINARY_DIR}/pch/test.cpp "int main() {}\n")
    add_executable(husk_test_pch EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/pch/test.cpp)
    target_link_libraries(husk_test_pch PUBLIC fmt::fmt GTest::gtest GTest::gmock)
    target_precompile_headers(husk_test_pch PRIVATE ${pch_headers} <gtest/gtest.h> <gmock/gmock.h>)
  endif()
endif()

# husk_library(NAME [DEPS libs...]): a static library husk_NAME of every .cpp of this folder that is not a test, and one
# test program NAME_test of its *_test.cpp files. Sub-folders with a CMakeLists.txt of their own add themselves.
function(husk_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  if(sources)
    add_library(husk_${name} STATIC ${sources})
    target_include_directories(husk_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/gen)
    target_link_libraries(husk_${name} PUBLIC fmt::fmt ${ARG_DEPS})
    if(HUSK_PCH)
      target_precompile_headers(husk_${name} REUSE_FROM husk_pch)
    endif()
  else()
    add_library(husk_${name} INTERFACE)
    target_include_directories(husk_${name} INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/gen)
    target_link_libraries(husk_${name} INTERFACE fmt::fmt ${ARG_DEPS})
  endif()
  if(HUSK_TESTS AND tests)
    husk_test(${name}_test SOURCES ${tests} DEPS husk_${name} ${ARG_TEST_DEPS})
  endif()
endfunction()

# husk_test(NAME SOURCES files... [DEPS libs...] [TIMEOUT seconds]): one GoogleTest program, one ctest entry.
function(husk_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main Threads::Threads)
  if(HUSK_PCH)
    target_precompile_headers(${name} REUSE_FROM husk_test_pch)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

# husk_bench(NAME SOURCES files... [DEPS libs...]): one Google Benchmark program, run by hand.
function(husk_bench name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  find_package(benchmark REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} benchmark::benchmark benchmark::benchmark_main Threads::Threads)
endfunction()

# husk_fuzz(NAME SOURCES files... [DEPS libs...]): one libFuzzer program; its corpus is fuzz/corpus/NAME.
function(husk_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} Threads::Threads)
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()

# husk_nasm(OUTPUT_VARIABLE source.asm [options...]): assembles to a flat binary in the build tree.
function(husk_nasm variable source)
  find_program(NASM nasm REQUIRED)
  get_filename_component(name ${source} NAME_WE)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}.bin)
  file(GLOB includes CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.inc)
  add_custom_command(OUTPUT ${output}
    COMMAND ${NASM} -f bin -Werror -I${CMAKE_CURRENT_SOURCE_DIR}/ ${ARGN} -o ${output} ${CMAKE_CURRENT_SOURCE_DIR}/${source}
    DEPENDS ${source} ${includes})
  set(${variable} ${output} PARENT_SCOPE)
endfunction()
