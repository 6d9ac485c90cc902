package engine

// RemoveManifestList forgets a manifest list in the making. It fails with
// errdefs.ErrNotFound where there is none.
func RemoveManifestList(env *Env, ref string) error {
	list, err := listReference(ref)
	if err != nil {
		return err
	}
	lists, err := listsOf(env)
	if err != nil {
		return err
	}
	if _, err := lists.all(list); err != nil {
		return err
	}
	return lists.remove(list)
}
