# Regroup::torch: LibTorch as it lies in a Python environment's torch package, CPU or CUDA flavour.
# PyTorch's own find_package(Torch) wants a CUDA toolkit for the CUDA flavour; nothing here needs one.

set(REGROUP_PYTHON ${PROJECT_SOURCE_DIR}/.venv/bin/python
    CACHE FILEPATH "Python whose torch package Regroup is built on, and whose tokenizers it runs")
set(REGROUP_TORCH_VERSIONS 2.13 2.14)

function(regroup_find_torch_folder result)
  if(NOT EXISTS ${REGROUP_PYTHON})
    message(FATAL_ERROR "There is no Python at ${REGROUP_PYTHON}. Run tools/setup.sh, "
                        "or name one that has torch with -DREGROUP_PYTHON=/path/to/python.")
  endif()
  execute_process(
    COMMAND ${REGROUP_PYTHON} -c
            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT EXISTS ${folder}/lib/libtorch.so)
    message(FATAL_ERROR "${REGROUP_PYTHON} has no torch package. Run tools/setup.sh, "
                        "or install torch 2.13.0 there.")
  endif()
  set(${result} ${folder} PARENT_SCOPE)
endfunction()

regroup_find_torch_folder(REGROUP_TORCH_FOLDER)
include(RegroupTorchTarget)
regroup_add_torch_target(${REGROUP_TORCH_FOLDER})

list(FIND REGROUP_TORCH_VERSIONS "${REGROUP_TORCH_SERIES}" known)
if(known EQUAL -1)
  message(FATAL_ERROR "${REGROUP_TORCH_FOLDER} is torch ${REGROUP_TORCH_VERSION}; Regroup is built on "
                      "2.13.x or 2.14.x. Run tools/setup.sh, or name another Python with "
                      "-DREGROUP_PYTHON=/path/to/python.")
endif()
message(STATUS "LibTorch ${REGROUP_TORCH_VERSION} (${REGROUP_TORCH_FLAVOUR} flavour, NCCL "
               "${REGROUP_TORCH_NCCL}): ${REGROUP_TORCH_FOLDER}")

# Programs find LibTorch by RPATH, in the build folder and where they are installed.
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH ${REGROUP_TORCH_LIBRARY_FOLDERS})
