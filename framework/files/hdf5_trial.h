// framework/files/hdf5_trial.h: a first reading of an HDF5 file in a process that may die of it.
#pragma once

#include <filesystem>

namespace regroup::hdf5 {

/// Reads the file's structure (objects, attributes, types, shapes, places of chunks) in a forked
/// child, because libhdf5 crashes or loops for ever on some damaged files. Throws Error when it
/// does; errors that it reports are left to the reader. Call with LibraryLock held, so that no
/// other thread is inside the library when the process forks.
void require_survives_reading(const std::filesystem::path& file);

}  // namespace regroup::hdf5
