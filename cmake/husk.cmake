# husk: the few functions that the CMakeLists.txt of each folder uses

add_compile_options(-Wall -Wextra -Wconversion -Wshadow -Werror)
if(HUSK_SANITIZE)
  add_compile_options(-fsanitize=${HUSK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HUSK_SANITIZE})
  if(HUSK_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # The guest's MFENCE is a fence that g++'s sanitizer does not follow; husk's own threads do not lean on fences.
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
