#include "framework/files/hdf5_file.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <utility>

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"
#include "framework/files/hdf5_library.h"
#include "framework/files/hdf5_trial.h"
#include "framework/tensors/dtype.h"

namespace regroup {
namespace fs = std::filesystem;
using namespace hdf5;
namespace {

constexpr const char* kDtypeAttribute = "torch_dtype";
constexpr int64_t kMostDeflateRatio = 1032;  // of zlib's format
constexpr size_t kChunkCacheBytes = size_t{16} << 20;

/// The dtype as which HDF5 stores the bits of a tensor.
c10::ScalarType stored_dtype(c10::ScalarType dtype) {
  if (dtype == at::kBFloat16 || dtype == at::kHalf) return at::kUInt16;
  if (dtype == at::kBool) return at::kByte;
  return dtype;
}

hid_t native_type(c10::ScalarType stored) {
  switch (stored) {
    case at::kByte:
      return H5T_NATIVE_UINT8;
    case at::kChar:
      return H5T_NATIVE_INT8;
    case at::kUInt16:
      return H5T_NATIVE_UINT16;
    case at::kShort:
      return H5T_NATIVE_INT16;
    case at::kUInt32:
      return H5T_NATIVE_UINT32;
    case at::kInt:
      return H5T_NATIVE_INT32;
    case at::kUInt64:
      return H5T_NATIVE_UINT64;
    case at::kLong:
      return H5T_NATIVE_INT64;
    case at::kFloat:
      return H5T_NATIVE_FLOAT;
    case at::kDouble:
      return H5T_NATIVE_DOUBLE;
    default:
      TORCH_CHECK(false, "HDF5 files hold no ", stored);
  }
}

/// The torch dtype of numbers in a file, of either byte order.
c10::ScalarType dtype_of(hid_t type, const std::string& where) {
  const auto kind = H5Tget_class(type);
  const size_t bytes = H5Tget_size(type);
  for (const auto dtype : {at::kByte, at::kChar, at::kUInt16, at::kShort, at::kUInt32, at::kInt,
                           at::kUInt64, at::kLong, at::kFloat, at::kDouble}) {
    const hid_t native = native_type(dtype);
    const bool same_sign = kind != H5T_INTEGER || H5Tget_sign(native) == H5Tget_sign(type);
    if (H5Tget_class(native) == kind && H5Tget_size(native) == bytes && same_sign) return dtype;
  }
  throw Error(
      where,
      c10::str("holds elements of ", bytes, " bytes that are no integers, float32 or float64"),
      "Write it again with a numeric type.");
}

std::vector<int64_t> shape_of(hid_t space, const std::string& where) {
  if (H5Sget_simple_extent_type(space) == H5S_NULL) {
    throw Error(where, "has no values at all", "Write it again.");
  }
  const int n_axes = check(H5Sget_simple_extent_ndims(space), where, "read its shape");
  std::vector<hsize_t> sizes(static_cast<size_t>(n_axes));
  check(H5Sget_simple_extent_dims(space, sizes.data(), nullptr), where, "read its shape");
  return {sizes.begin(), sizes.end()};
}

/// Refuses a dataset that claims more bytes than the file can hold for it.
void check_storage(hid_t dataset, int64_t file_bytes, const std::vector<int64_t>& shape,
                   c10::ScalarType dtype, const std::string& where) {
  const Hdf5Handle properties(check(H5Dget_create_plist(dataset), where, "read its layout"),
                              H5Pclose);
  const auto layout = H5Pget_layout(properties.id());
  const bool chunked = layout == H5D_CHUNKED;
  if ((!chunked && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) ||
      H5Pget_external_count(properties.id()) != 0) {
    throw Error(where, "keeps its data in other files", "Copy them into this one.");
  }
  auto claimed = static_cast<int64_t>(c10::elementSize(dtype));
  bool overflows = false;
  for (const int64_t size : shape) {
    overflows = overflows || size < 0 || __builtin_mul_overflow(claimed, size, &claimed);
  }
  const auto stored = std::min(static_cast<int64_t>(H5Dget_storage_size(dataset)), file_bytes);
  const bool filtered = chunked && H5Pget_nfilters(properties.id()) > 0;
  const bool fits = claimed <= stored || (filtered && claimed / kMostDeflateRatio <= stored);
  if (!overflows && fits) return;
  throw Error(
      where,
      c10::str("claims shape ", c10::IntArrayRef(shape), ", ",
               overflows ? "more than 2^63" : c10::str(claimed), " bytes, but stores ", stored),
      kDamagedFile);
}

/// The prefixes of a path: "/train/tokens" gives "/train" and "/train/tokens".
std::vector<std::string> prefixes(const std::string& name) {
  std::vector<std::string> all;
  for (size_t slash = name.find('/', 1); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    all.push_back(name.substr(0, slash));
  }
  if (name.size() > 1) all.push_back(name);
  return all;
}

/// Throws Error unless the file itself holds the object: links could lead to other files.
void require_own(hid_t file, const std::string& name, const std::string& where) {
  for (const auto& prefix : prefixes(name)) {
    if (H5Lexists(file, prefix.c_str(), H5P_DEFAULT) <= 0) {
      throw Error(where, "has no " + prefix, "Check that this is the right file.");
    }
    H5L_info_t link;
    check(H5Lget_info(file, prefix.c_str(), &link, H5P_DEFAULT), where, "look up " + prefix);
    if (link.type == H5L_TYPE_HARD) continue;
    throw Error(where, prefix + " is a link, not data", "Copy the data into this file.");
  }
}

/// A dataspace of `count` rows, the rest of the shape unchanged.
Hdf5Handle rows_space(const std::vector<int64_t>& shape, int64_t count) {
  std::vector<hsize_t> sizes(shape.begin(), shape.end());
  if (!sizes.empty()) sizes[0] = static_cast<hsize_t>(count);
  const int n_axes = static_cast<int>(sizes.size());
  const hid_t space =
      sizes.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(n_axes, sizes.data(), nullptr);
  return {check(space, "HDF5", "make a dataspace"), H5Sclose};
}

Hdf5Handle selected_rows(const std::vector<int64_t>& shape, int64_t begin, int64_t count) {
  auto space = rows_space(shape, shape.empty() ? 1 : shape[0]);
  if (shape.empty()) return space;
  std::vector<hsize_t> start(shape.size(), 0);
  std::vector<hsize_t> sizes(shape.begin(), shape.end());
  start[0] = static_cast<hsize_t>(begin);
  sizes[0] = static_cast<hsize_t>(count);
  check(
      H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, sizes.data(), nullptr),
      "HDF5", "select rows");
  return space;
}

/// Creation properties of objects that do not record when they were made: same data, same bytes.
Hdf5Handle timeless(hid_t kind) {
  auto properties = property_list(kind);
  check(H5Pset_obj_track_times(properties.id(), false), "HDF5", "leave times out");
  return properties;
}

/// The groups in which the object of this name will be.
void create_groups(hid_t file, const std::string& name, const std::string& where) {
  const auto properties = timeless(H5P_GROUP_CREATE);
  auto groups = prefixes(name);
  groups.pop_back();
  for (const auto& group : groups) {
    if (H5Lexists(file, group.c_str(), H5P_DEFAULT) > 0) continue;
    const Hdf5Handle created(
        check(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, properties.id(), H5P_DEFAULT), where,
              "make group " + group),
        H5Gclose);
  }
}

int64_t n_rows(const std::vector<int64_t>& shape) { return shape.empty() ? 1 : shape[0]; }

/// The bits of a tensor in the dtype that HDF5 stores, contiguous and on the CPU.
at::Tensor storable(const at::Tensor& tensor) {
  const auto stored = stored_dtype(tensor.scalar_type());
  const auto contiguous = tensor.detach().cpu().contiguous();
  return stored == tensor.scalar_type() ? contiguous : contiguous.view(stored);
}

}  // namespace

at::Tensor Hdf5Dataset::read() const { return read_rows(0, n_rows(shape_)); }

at::Tensor Hdf5Dataset::read_rows(int64_t begin, int64_t count) const {
  TORCH_CHECK(begin >= 0 && count >= 0 && begin + count <= n_rows(shape_), name_, ": rows [", begin,
              ", ", begin + count, ") of ", n_rows(shape_));
  auto shape = shape_;
  if (!shape.empty()) shape[0] = count;
  const auto stored = stored_dtype(dtype_);
  const auto rows = at::empty(shape, at::TensorOptions().dtype(stored));
  if (rows.numel() > 0) {
    const LibraryLock lock;
    const auto memory = rows_space(shape_, count);
    const auto file = selected_rows(shape_, begin, count);
    check(H5Dread(handle_.id(), native_type(stored), memory.id(), file.id(), H5P_DEFAULT,
                  rows.mutable_data_ptr()),
          located(file_, name_), c10::str("read rows [", begin, ", ", begin + count, ")"));
  }
  if (dtype_ == at::kBool) return rows.ne(0);
  return stored == dtype_ ? rows : rows.view(dtype_);
}

Hdf5File Hdf5File::open(const fs::path& file) {
  Hdf5File opened;
  opened.where_ = file.string();
  std::error_code error;
  if (!fs::is_regular_file(file, error)) {
    throw Error(opened.where_, fs::exists(file, error) ? "is not a file" : "is not there",
                "Check the path.");
  }
  const LibraryLock lock;
  if (H5Fis_hdf5(file.c_str()) == 0) {
    throw Error(opened.where_, "is not an HDF5 file", "Check that this is the right file.");
  }
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // the fuzz targets' files come from the library
  require_survives_reading(file);
#endif
  const auto access = property_list(H5P_FILE_ACCESS);
  check(H5Pset_file_locking(access.id(), false, true), opened.where_, "turn file locks off");
  opened.handle_ = {
      check(H5Fopen(file.c_str(), H5F_ACC_RDONLY, access.id()), opened.where_, "open"), H5Fclose};
  return opened;
}

Hdf5File Hdf5File::create(const fs::path& file) {
  Hdf5File created;
  created.where_ = file.string();
  created.target_ = std::make_unique<AtomicFile>(file);
  const LibraryLock lock;
  const auto access = property_list(H5P_FILE_ACCESS);
  check(H5Pset_file_locking(access.id(), false, true), created.where_, "turn file locks off");
  // This format has checksums over its structure, so damage is found before the library acts on it;
  // it crashes on some broken structures.
  check(H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110), created.where_,
        "choose the format");
  // Makes a dataset that is still open an error at close() instead of a file that is never
  // finished.
  check(H5Pset_fclose_degree(access.id(), H5F_CLOSE_SEMI), created.where_, "prepare");
  created.handle_ = {check(H5Fcreate(created.target_->temporary().c_str(), H5F_ACC_TRUNC,
                                     timeless(H5P_FILE_CREATE).id(), access.id()),
                           created.where_, "create"),
                     H5Fclose};
  return created;
}

void Hdf5File::close() {
  TORCH_CHECK(target_, where_, " was opened for reading or is closed already");
  {
    const LibraryLock lock;
    check(H5Fflush(handle_.id(), H5F_SCOPE_GLOBAL), where_, "flush");
    check(H5Fclose(handle_.release()), where_, "close");
  }
  target_->commit();
  target_.reset();
}

bool Hdf5File::exists(const std::string& name) const {
  const LibraryLock lock;
  const auto all = prefixes(name);
  return std::all_of(all.begin(), all.end(), [&](const std::string& prefix) {
    return H5Lexists(handle_.id(), prefix.c_str(), H5P_DEFAULT) > 0;
  });
}

std::vector<std::string> Hdf5File::members(const std::string& group) const {
  const LibraryLock lock;
  const std::string where = located(where_, group);
  const Hdf5Handle opened(check(H5Gopen2(handle_.id(), group.c_str(), H5P_DEFAULT), where, "open"),
                          H5Gclose);
  H5G_info_t info;
  check(H5Gget_info(opened.id(), &info), where, "list its members");
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[256] = "";
    check(H5Lget_name_by_idx(opened.id(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                             H5P_DEFAULT),
          where, "list its members");
    names.emplace_back(name);
  }
  return names;
}

Hdf5Dataset Hdf5File::dataset(const std::string& name) const {
  const LibraryLock lock;
  const std::string where = located(where_, name);
  require_own(handle_.id(), name, where_);
  Hdf5Dataset opened;
  opened.file_ = where_;
  opened.name_ = name;
  const auto access = property_list(H5P_DATASET_ACCESS);
  check(H5Pset_chunk_cache(access.id(), H5D_CHUNK_CACHE_NSLOTS_DEFAULT, kChunkCacheBytes,
                           H5D_CHUNK_CACHE_W0_DEFAULT),
        where, "prepare");
  const hid_t id = H5Dopen2(handle_.id(), name.c_str(), access.id());
  opened.handle_ = {check(id, where, "open as a dataset"), H5Dclose};
  const Hdf5Handle type(check(H5Dget_type(id), where, "read its type"), H5Tclose);
  const Hdf5Handle space(check(H5Dget_space(id), where, "read its shape"), H5Sclose);
  const auto stored = dtype_of(type.id(), where);
  opened.shape_ = shape_of(space.id(), where);
  hsize_t file_bytes = 0;
  check(H5Fget_filesize(handle_.id(), &file_bytes), where_, "read its size");
  check_storage(id, static_cast<int64_t>(file_bytes), opened.shape_, stored, where);
  const auto dtype_name = string_attribute(name, kDtypeAttribute);
  opened.dtype_ = dtype_name ? dtype_from_name(*dtype_name).value_or(at::kComplexDouble) : stored;
  if (stored_dtype(opened.dtype_) != stored) {
    throw Error(where,
                c10::str(kDtypeAttribute, " is \"", *dtype_name, "\", but it stores ",
                         dtype_info(stored).hf_name),
                kDamagedFile);
  }
  return opened;
}

void Hdf5File::write(const std::string& name, const at::Tensor& tensor) {
  const auto bits = storable(tensor);
  const auto dataset = create_dataset(name, bits);
  write_rows(dataset, name, bits);
  {
    // The library holds small datasets back until they are closed, and a failure is lost there.
    const LibraryLock lock;
    check(H5Dflush(dataset.id()), located(where_, name), "write");
  }
  if (bits.scalar_type() == tensor.scalar_type()) return;
  set_attribute(name, kDtypeAttribute, std::string(dtype_info(tensor.scalar_type()).hf_name));
}

Hdf5Handle Hdf5File::create_dataset(const std::string& name, const at::Tensor& bits) {
  const std::string where = located(where_, name);
  const LibraryLock lock;
  create_groups(handle_.id(), name, where);
  const auto properties = timeless(H5P_DATASET_CREATE);
  check(H5Pset_alloc_time(properties.id(), H5D_ALLOC_TIME_EARLY), where, "prepare");
  check(H5Pset_fill_time(properties.id(), H5D_FILL_TIME_NEVER), where, "prepare");
  const auto shape = bits.sizes().vec();
  const auto space = rows_space(shape, n_rows(shape));
  const hid_t id = H5Dcreate2(handle_.id(), name.c_str(), native_type(bits.scalar_type()),
                              space.id(), H5P_DEFAULT, properties.id(), H5P_DEFAULT);
  return {check(id, where, "create"), H5Dclose};
}

/// Writes in pieces, so that other threads never wait long for the lock.
void Hdf5File::write_rows(const Hdf5Handle& dataset, const std::string& name,
                          const at::Tensor& bits) {
  if (bits.numel() == 0) return;
  const auto shape = bits.sizes().vec();
  const int64_t rows = n_rows(shape), row_bytes = static_cast<int64_t>(bits.nbytes()) / rows;
  const int64_t rows_per_write = std::max<int64_t>(1, int64_t{kBytesPerWrite} / row_bytes);
  const auto* bytes = static_cast<const char*>(bits.const_data_ptr());
  for (int64_t begin = 0; begin < rows; begin += rows_per_write) {
    const int64_t count = std::min(rows_per_write, rows - begin);
    const LibraryLock lock;
    const auto memory = rows_space(shape, count);
    const auto file = selected_rows(shape, begin, count);
    check(H5Dwrite(dataset.id(), native_type(bits.scalar_type()), memory.id(), file.id(),
                   H5P_DEFAULT, bytes + begin * row_bytes),
          located(where_, name), "write");
  }
}

}  // namespace regroup
