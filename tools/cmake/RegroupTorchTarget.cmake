# regroup_add_torch_target(FOLDER): makes Regroup::torch from a torch package's folder, and says in
# REGROUP_TORCH_VERSION, _SERIES (2.13), _FLAVOUR (cpu, cuda) and _NCCL (ON, OFF) what it found, in
# REGROUP_TORCH_LIBRARY_FOLDERS where its libraries lie.
# Used by Regroup's own build and, installed beside RegroupConfig.cmake, by programs that link Regroup.

macro(regroup_add_torch_target folder)
  file(STRINGS ${folder}/version.py REGROUP_TORCH_VERSION REGEX "^__version__")
  string(REGEX REPLACE ".*'(.*)'.*" "\\1" REGROUP_TORCH_VERSION "${REGROUP_TORCH_VERSION}")
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" REGROUP_TORCH_SERIES "${REGROUP_TORCH_VERSION}")
  set(REGROUP_TORCH_FLAVOUR cpu)
  set(regroup_torch_libraries torch torch_cpu c10)
  if(EXISTS ${folder}/lib/libtorch_cuda.so)
    set(REGROUP_TORCH_FLAVOUR cuda)
    list(APPEND regroup_torch_libraries torch_cuda c10_cuda)
  endif()

  # NCCL and the CUDA headers that c10d's includes want come as packages beside the CUDA flavour
  # (tools/setup.sh --cuda); no toolkit is needed.
  set(REGROUP_TORCH_NCCL OFF)
  set(REGROUP_TORCH_LIBRARY_FOLDERS ${folder}/lib)
  set(regroup_torch_includes ${folder}/include ${folder}/include/torch/csrc/api/include)
  set(regroup_torch_definitions USE_DISTRIBUTED USE_C10D_GLOO)  # as torch itself was built
  file(GLOB regroup_cuda_folder ${folder}/../nvidia/cu[0-9]*)
  set(regroup_nccl_folder ${folder}/../nvidia/nccl)
  if(REGROUP_TORCH_FLAVOUR STREQUAL cuda AND EXISTS ${regroup_nccl_folder}/include/nccl.h
     AND EXISTS ${regroup_cuda_folder}/include/crt/host_config.h
     AND EXISTS ${regroup_cuda_folder}/include/cccl/nv/target)
    set(REGROUP_TORCH_NCCL ON)
    list(APPEND regroup_torch_definitions USE_C10D_NCCL)
    list(APPEND regroup_torch_includes ${regroup_nccl_folder}/include ${regroup_cuda_folder}/include
                ${regroup_cuda_folder}/include/cccl)
    list(APPEND REGROUP_TORCH_LIBRARY_FOLDERS ${regroup_nccl_folder}/lib ${regroup_cuda_folder}/lib)
    file(GLOB regroup_cuda_libraries ${regroup_nccl_folder}/lib/libnccl.so.*
         ${regroup_cuda_folder}/lib/libcudart.so.*)
  endif()

  # LibTorch's parallel_for is a template that is serial without -fopenmp. Linking the OpenMP runtime
  # that LibTorch carries, not the compiler's, keeps a program to one pool of threads.
  file(GLOB regroup_openmp ${folder}/lib/libgomp*.so* ${folder}/../torch.libs/libgomp*.so*)
  if(NOT regroup_openmp)
    set(regroup_openmp gomp)
  endif()

  if(NOT TARGET Regroup::torch)
    add_library(Regroup::torch INTERFACE IMPORTED)
    list(TRANSFORM regroup_torch_libraries REPLACE "(.+)" "${folder}/lib/lib\\1.so")
    set_target_properties(
      Regroup::torch
      PROPERTIES
        INTERFACE_COMPILE_FEATURES cxx_std_20
        INTERFACE_COMPILE_DEFINITIONS "${regroup_torch_definitions}"
        # Only GCC's: Clang's would bring a second OpenMP runtime into the process.
        INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fopenmp>"
        INTERFACE_INCLUDE_DIRECTORIES "${regroup_torch_includes}"
        INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${regroup_torch_includes}"
        # torch_cuda registers its kernels when loaded, though no symbol of it is used
        INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed"
        INTERFACE_LINK_LIBRARIES "${regroup_torch_libraries};${regroup_cuda_libraries};${regroup_openmp}")
  endif()
endmacro()
