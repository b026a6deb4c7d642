# How every target of Regroup is compiled: language, optimisation, warnings, compiler cache.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# Flags of each build type, whole: they apply to everything, the precompiled header too.
# The loops of framework/kernels vectorise under these; none of them changes what a result is allowed to be.
set(REGROUP_LOOP_FLAGS "-fno-math-errno -fno-trapping-math -fopenmp-simd")
set(CMAKE_CXX_FLAGS_RELEASE "-O3 ${REGROUP_LOOP_FLAGS} -DNDEBUG")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # This pass computes what follows a clamp once more for each bound: three divisions instead of one.
  string(APPEND CMAKE_CXX_FLAGS_RELEASE " -fno-tree-pre")
endif()
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g ${REGROUP_LOOP_FLAGS}")
# Clang's, for libFuzzer. Without sanitizers in LibTorch's headers the build takes a third of the time.
set(REGROUP_NOT_SANITIZED ${PROJECT_SOURCE_DIR}/tests/fuzz/not_sanitized.txt)
string(CONCAT CMAKE_CXX_FLAGS_ASAN "-O1 -g1 ${REGROUP_LOOP_FLAGS} -fno-omit-frame-pointer "
       "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined "
       "-DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION "
       "-fsanitize-ignorelist=${REGROUP_NOT_SANITIZED} -fsanitize-coverage-ignorelist=${REGROUP_NOT_SANITIZED}")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug or Asan" FORCE)
endif()

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})

find_program(REGROUP_CCACHE ccache)
if(REGROUP_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  # ccache takes a precompiled header only when told that these need not be compared.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
      ${REGROUP_CCACHE})
endif()

# Most of a file's compile time is LibTorch's headers: the presets for whole builds compile several files as one
# (CMAKE_UNITY_BUILD), which halves the time. So the names of a file's unnamed namespace are its target's.
set(CMAKE_UNITY_BUILD_BATCH_SIZE 6)

# Makes FILE.cpp in the build folder, which defines the string NAME of FILE.h with the text of FILE.py.
set(regroup_embedded_python ${CMAKE_CURRENT_LIST_DIR}/embedded_python.cpp.in)
function(regroup_embed_python file name)
  file(READ ${file}.py text)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file}.py)
  cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE folder)
  set(header ${folder}/${file}.h)
  configure_file(${regroup_embedded_python} ${file}.cpp @ONLY)
endfunction()

# What all targets of ours share: warnings, and the one precompiled header, which regroup_framework builds (some 700 MB)
# and the others reuse.
function(regroup_configure target)
  target_compile_options(
    ${target}
    PRIVATE -Wall -Wextra -Wshadow -Wpedantic -Wno-psabi
            # GCC 12 sees these in correct uses of std::string
            $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread>
            $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>  # the loops are written for GCC
            $<$<AND:$<BOOL:${REGROUP_CCACHE}>,$<CXX_COMPILER_ID:GNU>>:-fpch-preprocess>
            $<$<AND:$<BOOL:${REGROUP_CCACHE}>,$<CXX_COMPILER_ID:Clang>>:SHELL:-Xclang -fno-pch-timestamp>)
  if(target STREQUAL regroup_framework)
    target_precompile_headers(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tools/cmake/precompiled.h)
  else()
    target_precompile_headers(${target} REUSE_FROM regroup_framework)
  endif()
endfunction()

# regroup_add_library(NAME LINKS target... SOURCES file...): a static library whose headers others
# include as "FOLDER/header.h", here and where it is installed. LINKS are PUBLIC.
function(regroup_add_library target)
  cmake_parse_arguments(ARG "" "" "LINKS;SOURCES" ${ARGN})
  add_library(${target} STATIC ${ARG_SOURCES})
  target_link_libraries(${target} PUBLIC ${ARG_LINKS})
  target_include_directories(
    ${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                     $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/regroup>)
  regroup_configure(${target})
endfunction()
